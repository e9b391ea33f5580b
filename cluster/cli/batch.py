"""`doseeng batch`: many cases, with a live table, result tables and an overview sorted by urgency."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cluster.cli import options
from cluster.cli.batchtable import Shown, show_end
from cluster.cli.console import ExitCode, err, print_json, show_line
from cluster.jobs.model import JobKind
from doseeng.errors import ConfigError

if TYPE_CHECKING:
    from cluster.batch.manifest import Manifest
    from cluster.batch.results import ItemResult
    from cluster.service.config import ExecutorConfig

FOLDER: Final = "doseeng-batch-{name}"

ManifestPath = Annotated[
    Path | None,
    typer.Argument(
        metavar="[MANIFEST]",
        help="A .csv or .toml that lists cases, or a folder: every plan below it is an item.",
        exists=True,
    ),
]
Kind = Annotated[JobKind, typer.Option(help="What is asked of every item.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder of the batch; without it doseeng-batch-NAME here.", file_okay=False)
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Work units at the same time, with --executor ray; one per core.")
]
ExecutorName = Annotated[str, typer.Option("--executor", help="Where to compute: in-process or ray.")]
Goals = Annotated[Path | None, typer.Option(help="Goals as TOML for items that name none.", dir_okay=False)]
Site = Annotated[str | None, typer.Option(help="Treatment site for items that name none (lung, head_neck, ...).")]
Scenarios = Annotated[str | None, typer.Option(help="Scenario set or .toml list for items that name none.")]
Settings = Annotated[Path | None, typer.Option("--settings", help="TOML with your own values for sites (adapt).")]
Gates = Annotated[Path | None, typer.Option("--gates", help="TOML with your own limits of quality gates (adapt).")]
HuTable = Annotated[
    str | None, typer.Option("--hu-table", help="HU table: a shipped name or the path of a .toml file.")
]
UnderTreatment = Annotated[
    str | None,
    typer.Option(
        "--under-treatment", metavar="SITE", help="Instead of a manifest: all plans under treatment at a site."
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="doseeng.toml of the running service.", dir_okay=False, exists=True)
]


def batch(
    manifest: ManifestPath = None,
    kind: Kind = JobKind.EVALUATE,
    out: Out = None,
    workers: Workers = None,
    executor: ExecutorName = "in-process",
    goals: Goals = None,
    site: Site = None,
    scenarios: Scenarios = None,
    settings: Settings = None,
    gates: Gates = None,
    machine_folder: options.MachineFolder = None,
    hu_table: HuTable = None,
    backend: options.BackendOption = "auto",
    under_treatment: UnderTreatment = None,
    config: ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Evaluate, adapt or recalculate many cases; a case that fails does not stop the others.

    The manifest has a line (CSV) or an [[item]] (TOML) per case: name, case (folder or .zip), plan (UID, where a case
    has several), image (adapt), and options of the single commands such as site, goals or scenarios. Paths are relative
    to the manifest.

    Results go into the batch's folder: overview.html, items and goals as .csv and .parquet, reports/. Stopped by
    Ctrl-C, a crash or a power cut, the same command goes on where it was; what is done and did not change is not
    computed again, what failed is tried again.

    The exit code is that of the worst verdict, 4 when an item could not be computed.
    """
    usual = _given(
        goals=goals,
        treatment_site=site,
        scenarios=scenarios,
        settings=settings,
        gates=gates,
        hu_table=hu_table,
        backend=None if backend == "auto" else backend,
    )
    if (manifest is None) == (under_treatment is None):
        raise ConfigError("give either a manifest (or folder), or --under-treatment SITE with --config")
    with _stopping() as stop:
        if under_treatment is not None:
            _require_unused("--under-treatment", workers=workers, machine_folder=machine_folder)
            found, folder, items = _of_service(config, under_treatment, kind, usual, out, as_json, stop)
        else:
            assert manifest is not None
            _require_unused("a manifest", config=config)
            computing = _computing(executor, workers)
            found, folder, items = _here(manifest, kind, usual, out, computing, machine_folder or [], as_json, stop)
    code = exit_code(items, stop.is_set())
    if as_json:
        print_json(_as_json(found, folder, items))
    else:
        show_end(items, folder)
    raise typer.Exit(code)


def exit_code(items: Sequence[ItemResult], is_stopped: bool) -> ExitCode:
    """Of the worst item; an item that failed is worse than any verdict, a batch that was stopped has no verdict."""
    from cluster.batch.results import Outcome

    outcomes = {item.outcome for item in items}
    if is_stopped and Outcome.WAITING in outcomes:
        return ExitCode.INTERRUPTED
    if outcomes & {Outcome.FAILED, Outcome.WAITING}:
        return ExitCode.ERROR
    return max((ExitCode[outcome.value] for outcome in outcomes if outcome is not Outcome.DONE), default=ExitCode.GREEN)


def _here(
    path: Path,
    kind: JobKind,
    usual: dict[str, Any],
    out: Path | None,
    computing: ExecutorConfig,
    machine_folders: list[Path],
    as_json: bool,
    stop: threading.Event,
) -> tuple[Manifest, Path, tuple[ItemResult, ...]]:
    from cluster.batch.manifest import SUFFIXES, read_manifest
    from cluster.batch.run import SITE, run_batch
    from cluster.batch.tree import read_tree
    from cluster.service.config import Site as SiteConfig

    if not path.is_dir() and path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"'{path.name}' is no manifest; expected a .csv or .toml file, or a folder of cases")
    with err.status("Reading the manifest", spinner="dots"):
        manifest = read_tree(path, kind, usual) if path.is_dir() else read_manifest(path, kind, usual)
    folder = out or Path(FOLDER.format(name=manifest.name))
    site = SiteConfig(name=SITE, machine_folders=[str(place.absolute()) for place in machine_folders])
    with Shown(manifest.name, as_json) as shown:
        return manifest, folder, run_batch(manifest, folder, site, computing, shown.update, stop)


def _of_service(
    config: Path | None,
    site: str,
    kind: JobKind,
    usual: dict[str, Any],
    out: Path | None,
    as_json: bool,
    stop: threading.Event,
) -> tuple[Manifest, Path, tuple[ItemResult, ...]]:
    from cluster.batch.treatment import run_under_treatment
    from cluster.service.config import read_config
    from cluster.service.services import open_services

    if config is None:
        raise ConfigError("--under-treatment needs --config, the doseeng.toml of the service that treats them")
    folder = out or Path(FOLDER.format(name=site))
    services = open_services(read_config(config))
    try:
        with Shown(f"under treatment at {site}", as_json) as shown:
            manifest, items = run_under_treatment(services, site, kind, usual, folder, shown.update, stop)
    finally:
        services.close()
    return manifest, folder, items


def _computing(executor: str, workers: int | None) -> ExecutorConfig:
    from cluster.service.config import ExecutorConfig
    from robust.configuration import checked

    if executor == "in-process" and workers is not None:
        raise ConfigError("--workers is for --executor ray; in this process one case has all cores at a time")
    # Two jobs a worker, so that none waits for the driver, and one that is read meanwhile.
    slots = 1 if executor == "in-process" else 2 * (workers or len(os.sched_getaffinity(0))) + 1
    return checked({"kind": executor, "workers": workers or 0, "slots": slots}, ExecutorConfig, "--executor")


def _given(**values: Any) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items() if value}


def _require_unused(beside: str, **values: Any) -> None:
    for name, value in values.items():
        if value:
            raise ConfigError(f"--{name.replace('_', '-')} has no meaning with {beside}; leave it out")


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second Ctrl-C ends at once."""
    stop = threading.Event()

    def asked(_signal: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        show_line(err, "[yellow]Stopping[/yellow]: what is nearly done is finished; once more to end at once.")

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_json(manifest: Manifest, folder: Path, items: Sequence[ItemResult]) -> dict[str, Any]:
    from dataclasses import asdict

    counts: dict[str, int] = {}
    for item in items:
        counts[item.outcome.value] = counts.get(item.outcome.value, 0) + 1
    return {
        "schema_version": 1,
        "batch": manifest.name,
        "kind": manifest.kind.value,
        "folder": str(folder),
        "outcomes": counts,
        "items": [asdict(item) for item in items],
    }
