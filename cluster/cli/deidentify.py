"""`doseeng deidentify` and `doseeng reidentify`: DICOM objects leave a site without identity, and results come back."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from cluster.cli import options
from cluster.cli.console import ExitCode, err, out, print_json, progress_bar, show_line, show_notices
from cluster.cli.opened import ConfigFile, Opened, SiteName, opened
from doseeng.dicom.files import PARSE_ERRORS, opened_folder, read_file, read_header
from doseeng.dicom.inventory import DicomObject, scan
from doseeng.dicom.tags import text
from doseeng.dicom.writing import save
from doseeng.errors import ConfigError, DicomError, Notice

if TYPE_CHECKING:
    from cluster.security.pseudonyms import Pseudonyms

In = Annotated[Path, typer.Argument(metavar="DIR", help="Folder (searched to its depths) or .zip with DICOM objects.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="New or empty folder to write to.", file_okay=False)]
_UID: Final = re.compile(r"[0-9.]{1,64}")
_NOT_WRITTEN: Final = "not written"


def deidentify(
    folder: In, target: Out, config: ConfigFile = None, site: SiteName = "", as_json: options.Json = False
) -> None:
    """Write copies without identity (DICOM PS3.15 Annex E), so that another place can compute on them.

    References between objects hold, dates of a patient move by the same number of days, and the way back is kept in
    the site's database. Objects that cannot be made safe are left out and named; the exit code is then 4.
    """
    from cluster.security.deidentify import deidentify as treated
    from cluster.security.identity import identity_of

    with opened(config) as service, opened_folder(folder) as source:
        where, pseudonyms = _pseudonyms(service, site)
        _prepare(target)
        inventory = scan(source)
        refused = [Notice(_NOT_WRITTEN, n.where, n.message) for n in inventory.notices if n.code == "unreadable-file"]
        notices: list[Notice] = []
        written: Counter[str] = Counter()
        patients: dict[str, list[DicomObject]] = {}
        for found in inventory.objects:
            patients.setdefault(found.patient_key, []).append(found)
        with progress_bar("De-identifying", quiet=as_json) as tell:
            done = 0
            for key, objects in patients.items():
                identity = identity_of(read_header(found.path) for found in objects)
                for found in objects:
                    try:
                        result = treated(read_file(found.path), pseudonyms, identity)
                        _write(result.dataset, target)
                        written[key] += 1
                        notices += result.notices
                    except DicomError as error:
                        refused.append(Notice(_NOT_WRITTEN, found.name, str(error)))
                    done += 1
                    tell(done, len(inventory.objects))
                _note(service, where, "deidentify", key, written[key])
        _end(target, sum(written.values()), len(patients), notices, refused, as_json)


def reidentify(
    folder: In, target: Out, config: ConfigFile = None, site: SiteName = "", as_json: options.Json = False
) -> None:
    """Give results that another place computed on pseudonyms the identity of the site's patients again.

    Objects of patients that are none of this site's are left out and named; the exit code is then 4.
    """
    from cluster.security.reidentify import reidentify as restored

    with opened(config) as service, opened_folder(folder) as source:
        where, pseudonyms = _pseudonyms(service, site)
        _prepare(target)
        inventory = scan(source)
        refused = [Notice(_NOT_WRITTEN, n.where, n.message) for n in inventory.notices if n.code == "unreadable-file"]
        written: Counter[str] = Counter()
        for found in inventory.objects:
            try:
                _write(restored(read_file(found.path), pseudonyms), target)
                written[found.patient_key] += 1
            except DicomError as error:
                refused.append(Notice(_NOT_WRITTEN, found.name, str(error)))
        for key, count in written.items():
            _note(service, where, "reidentify", key, count)
        _end(target, sum(written.values()), len(written), [], refused, as_json)


def _pseudonyms(service: Opened, site: str) -> tuple[str, Pseudonyms]:
    from cluster.security.pseudonyms import open_pseudonyms

    where = service.site(site)
    return where, open_pseudonyms(service.database, service.config.data, where)


def _prepare(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        raise ConfigError(f"'{target}' is not empty; give a new folder, so that nothing with identity lies in it")
    target.mkdir(parents=True, exist_ok=True)


def _write(dataset: Any, target: Path) -> None:
    # Of other places' objects nothing may name a file outside the folder.
    uid = text(dataset, "SOPInstanceUID")
    if not _UID.fullmatch(uid):
        raise DicomError("the object's SOP Instance UID is none; export it again")
    modality = re.sub("[^A-Z]", "", text(dataset, "Modality"))[:16] or "OT"
    try:
        save(dataset, target / f"{modality}.{uid}.dcm")
    except PARSE_ERRORS as error:
        raise DicomError("the object is damaged and cannot be written; export it again") from error


def _note(service: Opened, site: str, action: str, patient_key: str, count: int) -> None:
    service.audit.append(
        site=site,
        actor=service.actor,
        action=action,
        object_type="patient",
        object_id=patient_key,
        details={"objects": count},
    )


def _end(
    target: Path, objects: int, patients: int, notices: list[Notice], refused: list[Notice], as_json: bool
) -> None:
    if as_json:
        named = {"notices": notices, "refused": refused}
        shown = {key: [{"where": n.where, "message": n.message} for n in some] for key, some in named.items()}
        print_json({"folder": str(target), "objects": objects, "patients": patients, **shown})
    else:
        show_notices([*notices, *refused])
        show_line(out, f"{objects} objects of {patients} patients written to {escape(str(target))}")
        if refused:
            show_line(err, f"[bold red]{len(refused)} objects were not written[/bold red]")
    raise typer.Exit(ExitCode.ERROR if refused else ExitCode.GREEN)
