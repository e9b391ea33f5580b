"""The photon machine file: nothing lost, the same bytes, and wrong files named."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from doseeng.errors import MachineError
from doseeng.machines.photonfile import (
    photon_machine_hash,
    photon_machine_text,
    read_photon_machine,
    write_photon_machine,
)
from doseeng.machines.photonmodel import PhotonMachine


def assert_same(found: object, expected: object) -> None:
    """Equal values, arrays to six digits, down to the last part."""
    if isinstance(expected, np.ndarray):
        np.testing.assert_allclose(found, expected, rtol=6e-6)
    elif isinstance(expected, tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    elif dataclasses.is_dataclass(expected):
        assert type(found) is type(expected)
        for field in dataclasses.fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name))
    else:
        assert found == expected


def test_round_trip_keeps_everything_to_six_digits(photon_machine: PhotonMachine, tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.toml"
    write_photon_machine(photon_machine, path)
    assert_same(read_photon_machine(path), photon_machine)
    assert list(tmp_path.rglob("*")) == [path.parent, path]


def test_a_machine_without_leaves_wedges_and_aliases(photon_machine: PhotonMachine, tmp_path: Path) -> None:
    bare = dataclasses.replace(photon_machine, leaves=(), wedges=(), aliases=(), fluence_mode="FFF", softening=0.0)
    write_photon_machine(bare, tmp_path / "m.toml")
    assert_same(read_photon_machine(tmp_path / "m.toml"), bare)


def test_amplitudes_of_scatter_may_sum_to_more_than_one(photon_machine: PhotonMachine, tmp_path: Path) -> None:
    modes = dataclasses.replace(photon_machine.modes, scatter=np.array([[1.2, 0.05, 0.2], [0.4, 0.01, 0.3]]))
    write_photon_machine(dataclasses.replace(photon_machine, modes=modes), tmp_path / "m.toml")
    assert_same(read_photon_machine(tmp_path / "m.toml").modes, modes)


def test_text_and_hash_survive_a_round_trip(photon_machine: PhotonMachine, tmp_path: Path) -> None:
    odd = dataclasses.replace(
        photon_machine, profile=np.array([1.0, 1.0 / 3.0, -0.0]), spectrum_weight=np.full(4, 0.25)
    )
    write_photon_machine(odd, tmp_path / "m.toml")
    back = read_photon_machine(tmp_path / "m.toml")
    text = (tmp_path / "m.toml").read_text(encoding="utf-8")
    assert text == photon_machine_text(odd) == photon_machine_text(back)
    assert photon_machine_hash(back) == photon_machine_hash(odd) != photon_machine_hash(photon_machine)


def test_a_physicist_finds_the_numbers_with_their_units(photon_machine: PhotonMachine) -> None:
    text = photon_machine_text(photon_machine)
    for line in (
        "gy_per_mu = 0.0067123456  # dose to water per monitor unit there",
        "focal_mm = [0.5, 0.7]  # sigma of the focal spot along x, y",
        "widths = [[10, 10], [40, 5], [10, 10]]  # leaves along a bank and their width in mm, isocentre plane",
        "# photon energy in MeV, share of the energy fluence on the axis\nrows = [\n  [0.5, 0.4],\n  [1, 0.3],",
    ):
        assert line in text


def change(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("photon machine 1", "photon machine 9"), "format is 'doseeng photon machine 9'"),
        (change("photon machine 1", "proton machine 1"), "format is 'doseeng proton machine 1'"),
        (change("softening = 1 ", "softening = 1.5 "), r"'softening' is 1.5; it must lie in 0..1"),
        (change("softening", "hardening"), "key 'softening' is missing"),
        (change('"STANDARD"', '"SRS"'), "fluence_mode is 'SRS', expected STANDARD or FFF"),
        (change("energy_mv = 6", "energy_mv = '6'"), "'energy_mv' is '6', expected a number"),
        (change("energy_mv = 6", "energy_mv = -6"), "'energy_mv' is -6; it must be positive"),
        (change("[jaws]", "[jaw]"), "key 'jaws' is missing"),
        (change("\nssd_mm", "\nsad_mm = 1000\nssd_mm"), "unknown key 'reference.sad_mm'"),
        (change("gy_per_mu = 0.0067123456", "gy_per_mu = 0"), "'reference.gy_per_mu' is 0; it must be positive"),
        (change("gy_per_mu = 0.0067123456", "gy_per_mu = nan"), "'reference.gy_per_mu' is nan"),
        (change("depth_mm = 100 ", "depth_mm = inf "), "'reference.depth_mm' is inf"),
        (change("[0.5, 0.4]", "[0.5]"), r"'spectrum.rows\[0\]' has 1 values, expected 2"),
        (change("[0.5, 0.4]", "[0.5, true]"), r"'spectrum.rows\[0\]\[1\]' is True, expected a number"),
        (change("[0.5, 0.4]", "[0, 0.4]"), "spectrum: energies must be positive"),
        (change("[0.5, 0.4]", "[0.5, 0.5]"), "spectrum: shares sum to 1.1, expected 1"),
        (change("[0.5, 0.4]", "[0.5, nan]"), "spectrum holds a value that is negative or not finite"),
        (change("[0.5, 0.4]", "[1.5, 0.4]"), "spectrum needs ascending positions"),
        (change("[0, 1],", "[10, 1],"), "profile must begin with 1 on the axis"),
        (change("[0, 1],", "[0, 0.9],"), "profile must begin with 1 on the axis"),
        (change("[0.5, 0.7]", "[0.5]"), "'head.focal_mm' has 1 values, expected 2"),
        (change("[0.5, 0.7]", "[0.5, -0.7]"), "'head.focal_mm' is -0.7; it must not be negative"),
        (change("scatter_plane_mm = 120", "scatter_plane_mm = 1200"), "'head.scatter_plane_mm' is 1200, beyond"),
        (change("share = 0.2 ", "share = 20 "), r"'electrons.share' is 20; it must lie in 0..1"),
        (change("transmission = 0.005 ", "transmission = -1 "), r"'jaws.transmission' is -1; it must lie in 0..1"),
        (change("y_plane_mm = 320", "y_plane_mm = 1000"), "'jaws.y_plane_mm' is 1000, beyond the isocentre"),
        (change("plane_mm = 500", "plane_mm = 1500"), r"'leaves\[0\].plane_mm' is 1500, beyond"),
        (change('id = "M120"', 'id = "M120"\ncolour = 3'), r"unknown key 'leaves\[0\].colour'"),
        (change("[29, 10]", "[29.5, 10]"), r"'leaves\[1\].widths\[0\]' is \[29.5, 10\]"),
        (change("[29, 10]", "[29, 0]"), r"'leaves\[1\].widths\[0\]' is \[29, 0\]"),
        (
            change("tip_offset_mm = 0.9", "tip_offset_mm = inf"),
            r"'leaves\[0\].tip_offset_mm' is inf; it must be finite",
        ),
        (change("angle_deg = 30", "angle_deg = 90"), r"'wedge\[0\].angle_deg' is 90"),
        (change("[100, 0.9]", "[100, 1.9]"), r"wedge\[0\]: transmission must lie in 0..1, found 1.9"),
        (change("[[wedge]]", "[wedge]"), "'wedge' is dict, expected a list"),
        (change("[0, 45, 90", "[10, 45, 90"), "'cones.edge_deg' must go from 0 to 180"),
        (change("[0, 45, 90", "[0, 45, 60, 90"), "'cones.primary' has 4 rows, expected 5"),
        (change("[0.4, 1]", "[0.4, 0]"), "'cones.primary': .* rates per g/cm2 must be positive"),
        (change("[0.4, 1]", "[0.9, 1]"), "'cones.primary': shares sum to 1.5, expected 1"),
        (change("[0.4, 0.05]", "[-0.4, 0.05]"), "'cones.scatter': shares must not be negative"),
        (change("[1, 0.5, 0.1]", "[1, 0.5]"), r"'modes.primary\[0\]' has 2 values, expected 3"),
        (change("[1, 0.5, 0.1]", "[1, 0.5, -0.1]"), "'modes.primary': shares must not be negative"),
        (change('aliases = ["TR1", "Linac Ä"]', 'aliases = ["TR1", 7]'), r"'aliases\[1\]' is 7, expected text"),
        (lambda text: text[:-3], "not a machine file"),
    ],
)
def test_wrong_files_are_named_with_their_key(
    photon_machine: PhotonMachine, tmp_path: Path, edit: Callable[[str], str], message: str
) -> None:
    text = photon_machine_text(photon_machine)
    assert edit(text) != text
    path = tmp_path / "odd.toml"
    path.write_text(edit(text), encoding="utf-8")
    with pytest.raises(MachineError, match=message) as caught:
        read_photon_machine(path)
    assert "odd.toml" in str(caught.value)


def test_leaves_that_are_no_tables(photon_machine: PhotonMachine, tmp_path: Path) -> None:
    text = photon_machine_text(dataclasses.replace(photon_machine, leaves=()))
    (tmp_path / "odd.toml").write_text("leaves = [3]\n" + text, encoding="utf-8")
    with pytest.raises(MachineError, match=r"leaves\[0\] is 3, expected a table"):
        read_photon_machine(tmp_path / "odd.toml")
