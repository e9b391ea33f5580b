"""Options that several commands share, defined once."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from doseeng.backend import BACKENDS, choose
from doseeng.case import Case
from doseeng.dicom.case import read_case
from doseeng.engine import EngineSettings, Prepared, prepare
from doseeng.errors import ConfigError, Notice
from doseeng.gantry import Beam, start_deg, starting_at
from doseeng.grid import Grid
from doseeng.materials import DEFAULT_TABLE, read_hu_table
from doseeng.photon import Algorithm, PhotonSettings

CaseDir = Annotated[Path, typer.Argument(help="Folder (searched to its depths) or .zip with the DICOM objects.")]
PlanUid = Annotated[str | None, typer.Option("--plan", help="SOP Instance UID of the plan, when there are several.")]
Machine = Annotated[
    str | None, typer.Option(help="Compute all beams with this machine model instead of the one the plan names.")
]
MachineFolder = Annotated[
    list[Path] | None, typer.Option("--machine-folder", help="Look for machine models here too; repeatable.")
]
Alias = Annotated[list[str] | None, typer.Option(help="Treatment machine name of plans that this model stands for.")]
MachineOut = Annotated[Path | None, typer.Option("--out", help="File to write instead of installing for this user.")]
HuTableOption = Annotated[str, typer.Option("--hu-table", help="HU table: a shipped name or the path of a .toml file.")]
Spacing = Annotated[
    float,
    typer.Option("--spacing", min=0.5, max=10.0, help="Dose grid in mm, where the case brings no dose of its own."),
]
Gantry = Annotated[
    list[str] | None,
    typer.Option(
        "--gantry",
        metavar="BEAM=DEG",
        help="Override a beam's gantry angle, e.g. 1=0; repeatable. An arc turns as a whole, so that it starts there.",
    ),
]
AlgorithmOption = Annotated[
    Algorithm | None,
    typer.Option(
        "--algorithm", help="Photon dose algorithm; without it collapsed-cone for `dose`, pencil for `evaluate`."
    ),
]
AcceptMismatch = Annotated[
    bool,
    typer.Option(
        "--accept-patient-mismatch", help="Go on when objects that belong together carry different patient IDs."
    ),
]
BackendOption = Annotated[
    str, typer.Option("--backend", help=f"Where to compute ({', '.join(BACKENDS)}); auto takes a GPU if there is one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON for programs.")]
DEFAULT_HU_TABLE = DEFAULT_TABLE


def require_outside(case_dir: Path, output: Path) -> None:
    """ConfigError for a dose inside the case's own folder."""
    if output.resolve().is_relative_to(case_dir.resolve()):
        raise ConfigError(
            f"'{output}' lies in the folder of the case, where a dose would be taken for the planning system's ; "
            "choose a place outside"
        )


def require_writable(*files: Path | None) -> None:
    """ConfigError for the first file that could not be written; asked before minutes of computing."""
    for file in files:
        if file is None:
            continue
        if file.is_dir():
            raise ConfigError(f"cannot write '{file}': it is a folder; give the name of a file in it")
        existing = next(folder for folder in file.absolute().parents if folder.exists())
        if not (existing.is_dir() and os.access(existing, os.W_OK)):
            raise ConfigError(f"cannot write '{file}': '{existing}' is no folder that this user may write to")


class DoseTo(StrEnum):
    """What photon dose is deposited in."""

    MEDIUM = "medium"
    WATER = "water"


def photon_settings(
    case: Case, algorithm: Algorithm | None, usual: Algorithm, dose_to: DoseTo | None = None
) -> PhotonSettings:
    """The photon settings asked for; ConfigError when a proton plan is given one, which would be ignored."""
    if case.plan.modality != "photon":
        for option, value in (("--algorithm", algorithm), ("--dose-to", dose_to)):
            if value is not None:
                raise ConfigError(f"{option} {value}: is for photon plans, plan '{case.plan.label}' has proton beams")
    return PhotonSettings(algorithm=algorithm or usual, to_water=dose_to is DoseTo.WATER)


def load_case(folder: Path, plan_uid: str | None, accept_mismatch: bool, gantry: list[str] | None) -> Case:
    """The case of a folder, with gantry angles overridden where asked; each override is a notice."""
    case = read_case(folder, plan_uid, accept_patient_mismatch=accept_mismatch)
    angles = dict(_gantry_override(text) for text in gantry or [])
    unknown = set(angles) - {beam.number for beam in case.plan.beams}
    if unknown:
        numbers = ", ".join(str(beam.number) for beam in case.plan.beams)
        raise ConfigError(f"--gantry names beam {min(unknown)}; the plan has beams {numbers}")
    if not angles:
        return case
    is_proton = case.plan.modality == "proton"
    beams = _turned(case.plan.proton_beams, angles) if is_proton else _turned(case.plan.photon_beams, angles)
    notices = tuple(
        Notice("gantry-overridden", f"beam {b.number}", f"{angles[b.number]:g} degrees instead of {start_deg(b):g}")
        for b in case.plan.beams
        if b.number in angles
    )
    return replace(case, plan=replace(case.plan, beams=beams), notices=case.notices + notices)


def _turned(beams: tuple[Beam, ...], angles: dict[int, float]) -> tuple[Beam, ...]:
    return tuple(starting_at(beam, angles[beam.number]) if beam.number in angles else beam for beam in beams)


def prepare_case(
    case: Case,
    machine: str | None,
    folders: list[Path] | None,
    hu_table: str,
    settings: EngineSettings,
    backend: str,
    grid: Grid | None = None,
) -> Prepared:
    """The engine's preparation with the command line's choices."""
    return prepare(
        case,
        machine=machine,
        machine_folders=folders or [],
        hu_table=read_hu_table(hu_table),
        grid=grid,
        settings=settings,
        backend=choose(backend),
    )


def _gantry_override(text: str) -> tuple[int, float]:
    number, _, angle = text.partition("=")
    try:
        beam, degrees = int(number), float(angle)
    except ValueError as error:
        raise ConfigError(f"--gantry {text}: expected BEAM=DEGREES such as 1=90") from error
    if not math.isfinite(degrees):
        raise ConfigError(f"--gantry {text}: the angle must be a finite number of degrees")
    return beam, degrees % 360.0
