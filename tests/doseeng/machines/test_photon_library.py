"""Finding photon machines: one linac, several energies and fluence modes; proton machines beside it."""

import dataclasses
from pathlib import Path

import pytest

from doseeng.errors import MachineError
from doseeng.machines.file import machine_hash
from doseeng.machines.library import (
    any_machine_hash,
    find_any_machine,
    find_machine,
    find_photon_machine,
    install_machine,
    list_machines,
)
from doseeng.machines.model import ProtonMachine
from doseeng.machines.photonfile import photon_machine_hash
from doseeng.machines.photonmodel import PhotonMachine


@pytest.fixture(autouse=True)
def _private_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("DOSEENG_MACHINES", raising=False)


@pytest.fixture
def clinic(photon_machine: PhotonMachine, bragg_machine: ProtonMachine, tmp_path: Path) -> Path:
    """A folder with one linac of three beams, and a proton machine that shares an alias with it."""
    folder = tmp_path / "clinic"
    for energy, mode in ((6.0, "STANDARD"), (6.0, "FFF"), (10.0, "FFF")):
        install_machine(dataclasses.replace(photon_machine, energy_mv=energy, fluence_mode=mode), folder)
    install_machine(dataclasses.replace(bragg_machine, aliases=("TR1",)), folder)
    return folder


def test_each_beam_has_its_own_file_and_all_are_listed(clinic: Path) -> None:
    assert sorted(path.name for path in clinic.iterdir()) == [
        "bragg_1.toml",
        "linac_a_10_mv_fff.toml",
        "linac_a_6_mv_fff.toml",
        "linac_a_6_mv_standard.toml",
    ]
    entries, notices = list_machines([clinic])
    assert [type(e.machine) for e in entries[:4]] == [ProtonMachine, PhotonMachine, PhotonMachine, PhotonMachine]
    assert entries[1].names == ("Linac A", "TR1", "Linac Ä")
    assert notices == []


@pytest.mark.parametrize("name", ["Linac A", "linac a ", "tr1", "LINAC ä"])
@pytest.mark.parametrize(
    ("energy", "plan_mode", "mode"),
    [
        (6, "", "STANDARD"),
        (6, "STANDARD", "STANDARD"),
        (6, "FFF", "FFF"),
        (10, "srs", "FFF"),
        (10, "NON_STANDARD", "FFF"),
    ],
)
def test_found_by_name_energy_and_mode(clinic: Path, name: str, energy: float, plan_mode: str, mode: str) -> None:
    found = find_photon_machine(name, energy, plan_mode, [clinic])
    assert (found.energy_mv, found.fluence_mode) == (energy, mode)


def test_no_fit_tells_what_there_is(clinic: Path) -> None:
    (clinic / "broken.toml").write_text("format = 3")
    with pytest.raises(MachineError, match=r"(?s)'tr1' of 10 MV STANDARD. 'tr1' has .*6 MV STANDARD.*broken\.toml"):
        find_photon_machine("tr1", 10, "", [clinic])
    with pytest.raises(MachineError, match=r"'TR7' of 6 MV STANDARD. Known: .*Linac A = TR1 = Linac Ä \(10 MV FFF\)"):
        find_photon_machine("TR7", 6, "", [clinic])
    with pytest.raises(MachineError, match="fluence mode 'FUZZY' is unknown; expected one of STANDARD"):
        find_photon_machine("tr1", 6, "FUZZY", [clinic])


def test_two_machines_that_fit_are_refused_but_copies_count_once(clinic: Path, photon_machine: PhotonMachine) -> None:
    install_machine(photon_machine)
    assert find_photon_machine("TR1", 6, "", [clinic]).name == "Linac A"
    install_machine(dataclasses.replace(photon_machine, name="Linac B"), clinic)
    with pytest.raises(MachineError, match=r"'TR1' of 6 MV STANDARD is ambiguous: Linac A .*Linac B \(6 MV STANDARD\)"):
        find_photon_machine("TR1", 6, "", [clinic])
    assert find_photon_machine("Linac B", 6, "", [clinic]).name == "Linac B"


def test_a_fitting_alias_counts_where_the_name_has_another_energy(clinic: Path, photon_machine: PhotonMachine) -> None:
    install_machine(dataclasses.replace(photon_machine, name="TR1", energy_mv=15.0, aliases=()), clinic)
    assert find_photon_machine("TR1", 6, "", [clinic]).name == "Linac A"


def test_photon_machines_do_not_disturb_proton_machines(clinic: Path, photon_machine: PhotonMachine) -> None:
    assert find_machine("TR1", [clinic]).name == "Bragg 1"
    install_machine(dataclasses.replace(photon_machine, name="Bragg 1", aliases=()), clinic)
    assert find_machine("Bragg 1", [clinic]).name == "Bragg 1"
    with pytest.raises(MachineError, match=r"no machine 'Linac A'\. Known: Bragg 1 = TR1; generic-pbs"):
        find_machine("Linac A", [clinic])


def test_either_kind_for_people_who_look(
    clinic: Path, photon_machine: PhotonMachine, bragg_machine: ProtonMachine
) -> None:
    assert isinstance(find_any_machine("TR1", [clinic]), ProtonMachine)
    with pytest.raises(MachineError, match="'Linac A' has 10 MV FFF, 6 MV FFF, 6 MV STANDARD; say which"):
        find_any_machine("Linac A", [clinic])
    with pytest.raises(MachineError, match=r"no machine 'x'\. Known: Bragg 1 = TR1; Linac A = TR1 = Linac Ä; generic"):
        find_any_machine("x", [clinic])
    install_machine(dataclasses.replace(photon_machine, name="Linac B", aliases=()), clinic)
    assert find_any_machine("linac b", [clinic]).name == "Linac B"
    assert any_machine_hash(photon_machine) == photon_machine_hash(photon_machine)
    assert any_machine_hash(bragg_machine) == machine_hash(bragg_machine)


def test_files_of_another_format_name_both(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text('format = "doseeng electron machine 1"')
    _, notices = list_machines([tmp_path])
    assert "expected 'doseeng proton machine 1' or 'doseeng photon machine 1'" in notices[0].message
