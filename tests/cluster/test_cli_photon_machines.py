"""`doseeng machine list` and `show` with photon machines: one linac, several beams."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doseeng.machines.library import find_photon_machine, install_machine
from doseeng.machines.photonfile import photon_machine_hash
from doseeng.machines.photonmodel import PhotonMachine

Run = Callable[..., Any]


@pytest.fixture
def beams(tmp_path: Path) -> tuple[PhotonMachine, PhotonMachine]:
    """6 MV and 10 MV FFF of "Room 3", alias TR3, in the folder `machines`."""
    six = replace(find_photon_machine("generic-6mv", 6), name="Room 3", aliases=("TR3",))
    ten = replace(six, energy_mv=10.0, fluence_mode="FFF")
    for machine in (six, ten):
        install_machine(machine, tmp_path / "machines")
    return six, ten


def test_both_kinds_are_listed(doseeng: Run, beams: tuple[PhotonMachine, PhotonMachine]) -> None:
    listed = doseeng("machine", "list", "--machine-folder", "machines", "--json").result["machines"]
    kinds = {m["kind"]: [n["name"] for n in listed if n["kind"] == m["kind"]] for m in listed}
    assert "generic-pbs" in kinds["proton"]
    assert kinds["photon"].count("Room 3") == 2
    people = " ".join(doseeng("machine", "list", "--machine-folder", "machines").out.split())
    assert people.index("Protons") < people.index("generic-pbs") < people.index("Photons") < people.index("Room 3")
    assert "10 MV FFF" in people


def test_a_beam_is_shown_by_energy_and_mode(doseeng: Run, beams: tuple[PhotonMachine, PhotonMachine]) -> None:
    six, ten = beams
    options = ("--machine-folder", "machines")
    shown = doseeng("machine", "show", "tr3", "--energy-mv", "6", *options)
    assert shown.code == 0, shown.err
    for words in ("Room 3", "6 MV STANDARD", "cGy/MU at", six.leaves[0].id, photon_machine_hash(six)[:16]):
        assert words in shown.out
    told = doseeng("machine", "show", "tr3", "--energy-mv", "10", "--fluence-mode", "FFF", *options, "--json").result
    assert (told["kind"], told["energy_mv"], told["fluence_mode"]) == ("photon", 10.0, "FFF")
    assert told["sha256"] == photon_machine_hash(ten)
    assert told["reference"]["gy_per_mu"] == ten.reference.gy_per_mu
    assert told["leaves"][0]["id"] == ten.leaves[0].id


def test_a_name_that_is_not_enough_says_what_there_is(doseeng: Run, beams: tuple[PhotonMachine, PhotonMachine]) -> None:
    done = doseeng("machine", "show", "TR3", "--machine-folder", "machines")
    assert done.code == 4
    assert "machine 'TR3' has 10 MV FFF, 6 MV STANDARD; say which energy and fluence mode" in done.err
    done = doseeng("machine", "show", "TR3", "--energy-mv", "15", "--machine-folder", "machines")
    assert done.code == 4
    assert "no photon machine 'TR3' of 15 MV STANDARD. 'TR3' has" in done.err


def test_a_shipped_beam_is_shown_by_its_name_alone(doseeng: Run) -> None:
    told = doseeng("machine", "show", "generic-6mv", "--json").result
    assert told["sha256"] == photon_machine_hash(find_photon_machine("generic-6mv", 6))
    # The mean energy of a 6 MV beam is about a third of its largest.
    assert 1.3 < told["mean_energy_mev"] < 2.3
    assert "generic-6mv" in doseeng("machine", "show", "generic-6mv").out
