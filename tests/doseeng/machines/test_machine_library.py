"""Finding machines: names, aliases, and no silent choice."""

import dataclasses
from pathlib import Path

import pytest

from doseeng.errors import MachineError
from doseeng.machines.file import machine_hash
from doseeng.machines.library import SHIPPED, find_machine, install_machine, list_machines, machine_folders, user_folder
from doseeng.machines.model import ProtonMachine


@pytest.fixture(autouse=True)
def _private_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("DOSEENG_MACHINES", raising=False)


@pytest.mark.parametrize("name", ["Bragg 1", "bragg 1", "GTR1", " gtr1 ", "GANTRY ü"])
def test_found_by_name_and_alias(bragg_machine: ProtonMachine, tmp_path: Path, name: str) -> None:
    install_machine(bragg_machine, tmp_path)
    assert machine_hash(find_machine(name, [tmp_path])) == machine_hash(bragg_machine)


def test_environment_and_user_folders_are_searched(
    bragg_machine: ProtonMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOSEENG_MACHINES", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    install_machine(bragg_machine, tmp_path / "b")
    assert find_machine("Bragg 1").name == "Bragg 1"
    install_machine(dataclasses.replace(bragg_machine, name="Bragg 2", aliases=()))
    assert (user_folder() / "bragg_2.toml").is_file()
    assert find_machine("bragg 2").name == "Bragg 2"
    assert machine_folders([tmp_path]) == [tmp_path, tmp_path / "a", tmp_path / "b", user_folder(), SHIPPED]


def test_unknown_machine_lists_the_known_and_what_to_do(bragg_machine: ProtonMachine, tmp_path: Path) -> None:
    install_machine(bragg_machine, tmp_path)
    (tmp_path / "broken.toml").write_text("format = 3")
    with pytest.raises(MachineError, match=r"(?s)Bragg 1 = GTR1.*machine import.*--machine.*broken\.toml"):
        find_machine("TR4", [tmp_path])


def test_unreadable_files_become_notices(bragg_machine: ProtonMachine, tmp_path: Path) -> None:
    install_machine(bragg_machine, tmp_path)
    (tmp_path / "broken.toml").write_text("format = 3")
    entries, notices = list_machines([tmp_path])
    assert "Bragg 1" in [entry.machine.name for entry in entries]
    assert [(n.code, n.where) for n in notices] == [("machine-file-unreadable", "broken.toml")]


def test_ambiguity_is_refused(bragg_machine: ProtonMachine, tmp_path: Path) -> None:
    install_machine(bragg_machine, tmp_path)
    other = dataclasses.replace(bragg_machine, name="Bragg 2")
    install_machine(other, tmp_path)
    with pytest.raises(MachineError, match=r"ambiguous: .*bragg_1\.toml.*bragg_2\.toml"):
        find_machine("GTR1", [tmp_path])
    assert find_machine("Bragg 2", [tmp_path]).name == "Bragg 2"


def test_a_name_wins_over_another_machines_alias(bragg_machine: ProtonMachine, tmp_path: Path) -> None:
    install_machine(bragg_machine, tmp_path)
    install_machine(dataclasses.replace(bragg_machine, name="GTR1", aliases=()), tmp_path)
    assert find_machine("gtr1", [tmp_path]).name == "GTR1"


def test_copies_count_once(bragg_machine: ProtonMachine, tmp_path: Path) -> None:
    install_machine(bragg_machine, tmp_path / "a")
    install_machine(bragg_machine, tmp_path / "b")
    assert find_machine("GTR1", [tmp_path / "a", tmp_path / "b"]).name == "Bragg 1"


def test_missing_search_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="nowhere does not exist"):
        find_machine("x", [tmp_path / "nowhere"])


def test_install_replaces_a_version_but_not_another_machine(bragg_machine: ProtonMachine, tmp_path: Path) -> None:
    path = install_machine(bragg_machine, tmp_path)
    assert install_machine(dataclasses.replace(bragg_machine, version="2"), tmp_path) == path
    assert find_machine("Bragg 1", [tmp_path]).version == "2"
    with pytest.raises(MachineError, match="holds machine 'Bragg 1'"):
        install_machine(dataclasses.replace(bragg_machine, name="bragg-1"), tmp_path)


def test_every_shipped_machine_is_readable() -> None:
    _, notices = list_machines()
    assert notices == []
