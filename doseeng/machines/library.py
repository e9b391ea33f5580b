"""Finding machines by name: tables shipped with doseeng, then the folders of the user."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from doseeng.errors import MachineError, Notice
from doseeng.machines.file import machine_hash, read_machine, write_machine
from doseeng.machines.model import ProtonMachine

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "machines"
FOLDERS_VARIABLE = "DOSEENG_MACHINES"


@dataclass(frozen=True, slots=True)
class MachineEntry:
    """A machine in a folder: the file that holds it and the names that plans may use for it."""

    path: Path
    machine: ProtonMachine

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


def list_machines(search: Sequence[Path] = ()) -> tuple[list[MachineEntry], list[Notice]]:
    """All readable machines, in the order of `machine_folders`, and one notice for each file that cannot be read.

    Raises MachineError when a folder named in `search` does not exist.
    """
    for folder in search:
        if not Path(folder).is_dir():
            raise MachineError(f"machine folder {folder} does not exist")
    entries, notices = [], []
    for folder in machine_folders(search):
        for path in sorted(folder.glob("*.toml")):
            try:
                entries.append(MachineEntry(path, read_machine(path)))
            except MachineError as error:
                notices.append(Notice("machine-file-unreadable", path.name, str(error)))
    return entries, notices


def find_machine(name: str, search: Sequence[Path] = ()) -> ProtonMachine:
    """The machine called `name`: its own name first, then aliases (as a plan's TreatmentMachineName); case is ignored.

    Raises MachineError when no machine has the name, or when different machines have it: none is chosen in silence.
    Copies of one machine in several folders count once.
    """
    entries, notices = list_machines(search)
    wanted = name.strip().casefold()
    found = [entry for entry in entries if entry.machine.name.casefold() == wanted]
    if not found:
        found = [entry for entry in entries if wanted in (alias.casefold() for alias in entry.machine.aliases)]
    if not found:
        known = "; ".join(" = ".join(entry.names) for entry in entries) or "none"
        unreadable = "".join(f"\n  {notice.message}" for notice in notices)
        raise MachineError(
            f"no machine '{name}'. Known: {known}. Import its beam data with `doseeng machine import`, or choose a"
            f" known one with `--machine NAME`.{unreadable}"
        )
    different = {machine_hash(entry.machine): entry for entry in found}
    if len(different) > 1:
        files = ", ".join(f"{entry.machine.name} in {entry.path}" for entry in different.values())
        raise MachineError(f"machine '{name}' is ambiguous: {files}. Rename or remove all but one.")
    return found[0].machine


def install_machine(machine: ProtonMachine, folder: Path | None = None) -> Path:
    """Write `machine` into `folder` (the user's by default) and return its path.

    A newer version of the same machine replaces the file; raises MachineError when the file holds another machine.
    """
    path = (folder or user_folder()) / f"{_file_stem(machine.name)}.toml"
    if path.exists() and (there := read_machine(path).name) != machine.name:
        raise MachineError(f"{path} holds machine '{there}', not '{machine.name}': rename one of them")
    write_machine(machine, path)
    return path


def _file_stem(name: str) -> str:
    stem = re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")
    if not stem:
        raise MachineError(f"machine name '{name}' has no letter or digit to name a file with")
    return stem
