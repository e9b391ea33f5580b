"""The machine file: nothing lost, the same bytes, and wrong files named."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from doseeng.errors import MachineError
from doseeng.machines.file import machine_hash, machine_text, read_machine, write_machine
from doseeng.machines.model import ProtonMachine


def test_round_trip_keeps_everything_to_six_digits(bragg_machine: ProtonMachine, tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.toml"
    write_machine(bragg_machine, path)
    back = read_machine(path)
    for field in dataclasses.fields(ProtonMachine):
        expected, found = getattr(bragg_machine, field.name), getattr(back, field.name)
        if field.name in ("halo", "optics"):
            for inner in dataclasses.fields(expected):
                np.testing.assert_allclose(getattr(found, inner.name), getattr(expected, inner.name), rtol=6e-6)
        elif isinstance(expected, np.ndarray):
            np.testing.assert_allclose(found, expected, rtol=6e-6)
        else:
            assert found == expected
    assert list(tmp_path.rglob("*")) == [path.parent, path]


def test_text_and_hash_survive_a_round_trip(bragg_machine: ProtonMachine, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    write_machine(bragg_machine, path)
    back = read_machine(path)
    assert path.read_text(encoding="utf-8") == machine_text(bragg_machine) == machine_text(back)
    assert machine_hash(back) == machine_hash(bragg_machine)


def test_hash_sees_a_change_of_one_number(bragg_machine: ProtonMachine) -> None:
    changed = bragg_machine.protons_per_mu.copy()
    changed[3] *= 1.0001
    assert machine_hash(dataclasses.replace(bragg_machine, protons_per_mu=changed)) != machine_hash(bragg_machine)


def test_gaussians_and_axes_stay_apart(bragg_machine: ProtonMachine, tmp_path: Path) -> None:
    n = len(bragg_machine.energy_mev)
    rng = np.random.default_rng(1)
    optics = dataclasses.replace(
        bragg_machine.optics,
        weight=rng.random(n).round(4),
        sigma_mm=rng.random((n, 2, 2)).round(4),
        divergence_rad=rng.random((n, 2, 2)).round(4),
        correlation=rng.random((n, 2, 2)).round(4),
    )
    path = tmp_path / "m.toml"
    write_machine(dataclasses.replace(bragg_machine, optics=optics), path)
    found = read_machine(path).optics
    for name in ("weight", "sigma_mm", "divergence_rad", "correlation"):
        np.testing.assert_array_equal(getattr(found, name), getattr(optics, name))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.replace("machine 1", "machine 9", 1), "format is 'doseeng proton machine 9'"),
        (lambda t: t.replace("\n[beam]", "\n[beam]\ncolour = 3"), "unknown key 'beam.colour'"),
        (lambda t: t.replace("plane_mm = 410", ""), "key 'optics.plane_mm' is missing"),
        (lambda t: t.replace("plane_mm = 410", "plane_mm = '410'"), "'optics.plane_mm' is '410', expected a number"),
        (lambda t: t.replace("  [80, 80,", "  [80,", 1), r"'beam.rows\[0\]' has 4 values, expected 5"),
        (lambda t: t.replace("  [80, 80,", "  [80, true,", 1), r"'beam.rows\[0\]\[1\]' is True, expected a number"),
        (lambda t: t.replace("[2234.8, 1859.1]", "[2234.8]"), "'source_distance_mm' has 1 values, expected 2"),
        (lambda t: t.replace("  [80, 80,", "  [95, 80,", 1), "differ from those of beam.rows"),
        (lambda t: t.replace("wet_mm = 40", "wet_mm = -40"), r"range_shifter\[0\]: wet_mm"),
        (
            lambda t: t.replace('id = "RS=40"', 'id = "RS=40"\nwidth_mm = 3'),
            r"unknown key 'range_shifter\[0\].width_mm'",
        ),
        (lambda t: t.replace("[80, 0.04,", "[80, 1.04,", 1), r"weight must lie in 0..1 .* 80 MeV"),
        (lambda t: t.replace("[80, 0.04,", "[80, nan,", 1), "NaN or infinity|weight must lie"),
        (lambda t: t.replace("depth_fraction = [0, ", "depth_fraction = [0.5, ", 1), "must be non-negative and ascend"),
        (lambda t: t[: len(t) // 2], "not a machine file"),
    ],
)
def test_wrong_files_are_named_with_their_key(
    bragg_machine: ProtonMachine, tmp_path: Path, edit: Callable[[str], str], message: str
) -> None:
    text = machine_text(bragg_machine)
    assert edit(text) != text
    path = tmp_path / "odd.toml"
    path.write_text(edit(text), encoding="utf-8")
    with pytest.raises(MachineError, match=message) as caught:
        read_machine(path)
    assert "odd.toml" in str(caught.value)


def test_missing_file_is_a_machine_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"absent\.toml"):
        read_machine(tmp_path / "absent.toml")


def test_failed_write_leaves_the_old_file_alone(bragg_machine: ProtonMachine, tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "inside").write_text("x")
    with pytest.raises(OSError, match="folder"):
        write_machine(bragg_machine, path)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
