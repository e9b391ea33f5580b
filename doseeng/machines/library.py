"""Finding machines by name: tables shipped with doseeng, then the folders of the user."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from doseeng.errors import MachineError, Notice
from doseeng.machines import file, photonfile
from doseeng.machines.file import machine_from, machine_hash, write_machine
from doseeng.machines.model import ProtonMachine
from doseeng.machines.photonfile import photon_machine_from, photon_machine_hash, write_photon_machine
from doseeng.machines.photonmodel import PhotonMachine
from doseeng.machines.tomlparts import naming, read_toml

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "machines"
FOLDERS_VARIABLE = "DOSEENG_MACHINES"
PLAN_MODES: Final = {"": "STANDARD", "STANDARD": "STANDARD", "NON_STANDARD": "FFF", "FFF": "FFF", "SRS": "FFF"}
"""Fluence mode of a plan (DICOM Fluence Mode or its ID) -> that of the machine."""
SAME_ENERGY_MV: Final = 0.01

Machine = ProtonMachine | PhotonMachine
M = TypeVar("M", bound=Machine, covariant=True)


@dataclass(frozen=True, slots=True)
class MachineEntry(Generic[M]):
    """A machine in a folder: the file that holds it and the names that plans may use for it."""

    path: Path
    machine: M

    @property
    def names(self) -> tuple[str, ...]:
        return (self.machine.name, *self.machine.aliases)


def machine_folders(search: Sequence[Path] = ()) -> list[Path]:
    """Where to look: `search`, $DOSEENG_MACHINES (separated like PATH), the user's folder, the shipped tables."""
    from_environment = [Path(p) for p in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if p]
    folders = [*map(Path, search), *from_environment, user_folder(), SHIPPED]
    return list(dict.fromkeys(folder.expanduser().absolute() for folder in folders))


def user_folder() -> Path:
    """The user's own machine folder, by the XDG base directory rules."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "doseeng" / "machines"


def list_machines(search: Sequence[Path] = ()) -> tuple[list[MachineEntry[Machine]], list[Notice]]:
    """All readable machines, proton and photon, in the order of `machine_folders`; a notice per file that is not.

    Raises MachineError when a folder named in `search` does not exist.
    """
    for folder in search:
        if not Path(folder).is_dir():
            raise MachineError(f"machine folder {folder} does not exist")
    entries, notices = [], []
    for folder in machine_folders(search):
        for path in sorted(folder.glob("*.toml")):
            try:
                entries.append(MachineEntry(path, read_any_machine(path)))
            except MachineError as error:
                notices.append(Notice("machine-file-unreadable", path.name, str(error)))
    return entries, notices


def read_any_machine(path: Path) -> Machine:
    """The proton or photon machine in a file; MachineError with the file name, as from their readers."""
    with naming(path):
        data = read_toml(path)
        if data.get("format") == photonfile.FORMAT:
            return photon_machine_from(data)
        if data.get("format") == file.FORMAT:
            return machine_from(data)
        raise MachineError(f"format is {data.get('format')!r}, expected {file.FORMAT!r} or {photonfile.FORMAT!r}")


def any_machine_hash(machine: Machine) -> str:
    """SHA-256 (hex) of the machine's file text."""
    return photon_machine_hash(machine) if isinstance(machine, PhotonMachine) else machine_hash(machine)


def find_machine(name: str, search: Sequence[Path] = ()) -> ProtonMachine:
    """The proton machine called `name`: its own name first, then aliases (as a plan's TreatmentMachineName).

    Case is ignored. Raises MachineError when no machine has the name, or when different machines have it: none is
    chosen in silence. Copies of one machine in several folders count once.
    """
    entries, notices = list_machines(search)
    protons = [MachineEntry(e.path, e.machine) for e in entries if isinstance(e.machine, ProtonMachine)]
    found = _called(name, protons)
    if not found:
        known = "; ".join(" = ".join(entry.names) for entry in protons) or "none"
        raise MachineError(
            f"no machine '{name}'. Known: {known}. Import its beam data with `doseeng machine import`, or choose a"
            f" known one with `--machine NAME`.{_unreadable(notices)}"
        )
    return _only(found, f"machine '{name}'")


def find_photon_machine(
    name: str, energy_mv: float, fluence_mode: str = "", search: Sequence[Path] = ()
) -> PhotonMachine:
    """The photon machine called `name` that delivers a beam; a linac is one machine per energy and fluence mode.

    Names as in `find_machine`. fluence_mode: as plans state it, see PLAN_MODES. Raises MachineError, telling what there
    is, when no machine fits or when different ones do, and for an unknown mode.
    """
    mode = PLAN_MODES.get(fluence_mode.strip().upper())
    if mode is None:
        known = ", ".join(filter(None, PLAN_MODES))
        raise MachineError(f"machine '{name}': fluence mode '{fluence_mode}' is unknown; expected one of {known}")
    entries, notices = list_machines(search)
    photons = [MachineEntry(e.path, e.machine) for e in entries if isinstance(e.machine, PhotonMachine)]
    fitting = [
        e for e in photons if abs(e.machine.energy_mv - energy_mv) < SAME_ENERGY_MV and e.machine.fluence_mode == mode
    ]
    found = _called(name, fitting)
    wanted = f"photon machine '{name}' of {energy_mv:g} MV {mode}"
    if not found:
        others = ", ".join(beam_quality(entry.machine) for entry in _called(name, photons))
        hint = f" '{name}' has {others}." if others else ""
        known = "; ".join(f"{' = '.join(e.names)} ({beam_quality(e.machine)})" for e in photons) or "none"
        raise MachineError(
            f"no {wanted}.{hint} Known: {known}. Put its file into a machine folder, or choose a known one with"
            f" `--machine NAME`.{_unreadable(notices)}"
        )
    return _only(found, wanted)


def find_any_machine(name: str, search: Sequence[Path] = ()) -> Machine:
    """The machine of either kind called `name`, for people who look at it: a proton machine before photon machines.

    Raises MachineError when there is none, or several, as for a linac with several energies.
    """
    entries, notices = list_machines(search)
    found = _called(name, entries)
    if not found:
        known = "; ".join(dict.fromkeys(" = ".join(entry.names) for entry in entries)) or "none"
        raise MachineError(f"no machine '{name}'. Known: {known}.{_unreadable(notices)}")
    protons = [entry for entry in found if isinstance(entry.machine, ProtonMachine)]
    qualities = dict.fromkeys(beam_quality(e.machine) for e in found if isinstance(e.machine, PhotonMachine))
    if not protons and len(qualities) > 1:
        raise MachineError(f"machine '{name}' has {', '.join(qualities)}; say which energy and fluence mode")
    return _only(protons or found, f"machine '{name}'")


def beam_quality(machine: PhotonMachine) -> str:
    """Energy and fluence mode, as "6 MV FFF"."""
    return f"{machine.energy_mv:g} MV {machine.fluence_mode}"


def install_machine(machine: Machine, folder: Path | None = None) -> Path:
    """Write `machine` into `folder` (the user's by default) and return its path.

    A newer version of the same machine replaces the file; raises MachineError when the file holds another machine.
    """
    path = (folder or user_folder()) / f"{_file_stem(machine)}.toml"
    if path.exists() and (there := read_any_machine(path)).name != machine.name:
        raise MachineError(f"{path} holds machine '{there.name}', not '{machine.name}': rename one of them")
    if isinstance(machine, PhotonMachine):
        write_photon_machine(machine, path)
    else:
        write_machine(machine, path)
    return path


def _called(name: str, entries: Iterable[MachineEntry[M]]) -> list[MachineEntry[M]]:
    """Entries whose machine has the name, or else those that have it as an alias."""
    entries = list(entries)
    wanted = name.strip().casefold()
    found = [entry for entry in entries if entry.machine.name.casefold() == wanted]
    return found or [e for e in entries if wanted in (alias.casefold() for alias in e.machine.aliases)]


def _only(found: Iterable[MachineEntry[M]], what: str) -> M:
    """The one machine among entries that may be copies of it."""
    different = {any_machine_hash(entry.machine): entry for entry in found}
    if len(different) > 1:
        files = ", ".join(f"{_label(entry.machine)} in {entry.path}" for entry in different.values())
        raise MachineError(f"{what} is ambiguous: {files}. Rename or remove all but one.")
    return next(iter(different.values())).machine


def _label(machine: Machine) -> str:
    return f"{machine.name} ({beam_quality(machine)})" if isinstance(machine, PhotonMachine) else machine.name


def _unreadable(notices: Iterable[Notice]) -> str:
    return "".join(f"\n  {notice.message}" for notice in notices)


def _file_stem(machine: Machine) -> str:
    stem = re.sub(r"[^a-z0-9]+", "_", machine.name.casefold()).strip("_")
    if not stem:
        raise MachineError(f"machine name '{machine.name}' has no letter or digit to name a file with")
    if isinstance(machine, PhotonMachine):
        return re.sub(r"[^a-z0-9]+", "_", f"{stem} {beam_quality(machine)}".casefold())
    return stem
