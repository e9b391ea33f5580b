"""`doseeng archive`: look into a site's PACS, and bring series from it into the library."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cluster.cli.console import err, out, print_json, progress_bar, show_line
from cluster.cli.opened import ConfigFile, SiteName
from cluster.cli.options import Json
from doseeng.errors import ConfigError

if TYPE_CHECKING:
    from cluster.node.archive import FoundStudy
    from cluster.service.config import Archive, ServiceConfig, Site

app = typer.Typer(no_args_is_help=True, help="Find and fetch what a site's archive (PACS) has.")

Name = Annotated[str, typer.Argument(metavar="ARCHIVE", help="Name of an [[site.archive]] of the configuration.")]
Patient = Annotated[
    str,
    typer.Option("--patient", prompt="Patient ID", help="Patient ID as the clinic knows it; asked for when left out."),
]
Study = Annotated[str, typer.Option("--study", help="Study Instance UID, as `find` shows it.")]
SeriesOption = Annotated[str, typer.Option("--series", help="Series Instance UID; without it the whole study.")]
Move = Annotated[
    bool,
    typer.Option(
        "--move",
        help="Have the archive send it to our node (C-MOVE), as if it sent it by itself: rules may start jobs.",
    ),
]


@app.command()
def echo(archive: Name, site: SiteName = "", config: ConfigFile = None, as_json: Json = False) -> None:
    """Ask whether an archive is there and takes our calls (C-ECHO)."""
    from cluster.node.network import echo as ask

    settings, of, peer = _archive(config, site, archive)
    ask(peer, _our_ae(settings, of), settings.dicom.timeout_s)
    if as_json:
        print_json({"archive": peer.name, "answers": True})
    else:
        show_line(out, f"[green]{escape(peer.name)}[/green] ({escape(peer.ae_title)}) answers")


@app.command()
def find(
    archive: Name, patient: Patient, site: SiteName = "", config: ConfigFile = None, as_json: Json = False
) -> None:
    """List the studies and series of a patient (C-FIND)."""
    from cluster.node.archive import find_studies

    settings, of, peer = _archive(config, site, archive)
    with err.status("Asking", spinner="dots"):
        studies = find_studies(peer, _our_ae(settings, of), patient, settings.dicom.timeout_s)
    if as_json:
        print_json({"studies": [asdict(study) for study in studies]})
    elif studies:
        _show(studies)
    else:
        show_line(out, f"{escape(peer.name)} has no study of this patient")


@app.command()
def fetch(
    archive: Name,
    study: Study,
    series: SeriesOption = "",
    move: Move = False,
    site: SiteName = "",
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Bring a study or series into the library (C-GET), where jobs can be made of it."""
    settings, of, peer = _archive(config, site, archive)
    if move:
        from cluster.node.archive import move_series

        with err.status("Fetching", spinner="dots"):
            count = move_series(
                peer, _our_ae(settings, of), _our_ae(settings, of), study, series, settings.dicom.timeout_s
            )
    else:
        count = _get(settings, of, peer, study, series, quiet=as_json)
    if as_json:
        print_json({"archive": peer.name, "objects": count})
    else:
        show_line(out, f"{count} objects came from {escape(peer.name)}")


def _get(settings: ServiceConfig, of: Site, peer: Archive, study: str, series: str, quiet: bool) -> int:
    from cluster.node.archive import get_series
    from cluster.service.services import open_services

    services = open_services(settings)
    taken = 0
    try:
        with progress_bar("Fetching", quiet) as tell:

            def take(data: bytes) -> None:
                nonlocal taken
                services.library.receive(of.name, data)
                taken += 1
                tell(taken, 0)

            return get_series(peer, _our_ae(settings, of), take, study, series, settings.dicom.timeout_s)
    finally:
        services.close()


def _archive(config: Path | None, site: str, name: str) -> tuple[ServiceConfig, Site, Archive]:
    """ConfigError when the site or the archive is not configured, or the site must be said."""
    from cluster.service.config import read_config

    settings = read_config(config)
    sites = [settings.site_named(site)] if site else settings.site
    found = [(of, archive) for of in sites for archive in of.archive if archive.name == name]
    if not found:
        known = ", ".join(f"'{archive.name}' ({of.name})" for of in sites for archive in of.archive) or "none"
        raise ConfigError(f"archive '{name}' is not configured; there are {known}: add a [[site.archive]]")
    if len(found) > 1:
        raise ConfigError(f"{len(found)} sites have an archive '{name}'; say which with --site")
    return settings, *found[0]


def _our_ae(settings: ServiceConfig, of: Site) -> str:
    return of.called_ae or settings.dicom.ae_title


def _show(studies: list[FoundStudy]) -> None:
    for study in studies:
        show_line(
            out, f"[bold]{study.date or 'no date'}[/bold] {escape(study.description)} [dim]{study.study_uid}[/dim]"
        )
        table = Table(box=None, pad_edge=True)
        for heading in ("date", "modality", "images", "description", "series"):
            table.add_column(heading, justify="right" if heading == "images" else "left", overflow="fold")
        for series in study.series:
            count = str(series.instances or "")
            table.add_row(series.date, series.modality, count, escape(series.description), series.series_uid)
        out.print(table)
