"""`doseeng machine commission photon` and `machine adjust` as a physicist meets them: files, tables, curves, errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from cluster.cli.commission import WITHIN_MM, WITHIN_PERCENT, _colored
from cluster.report.commissioning import commissioning_figure, write_commissioning
from doseeng.cpu import cpu
from doseeng.machines.file import write_machine
from doseeng.machines.genericphoton import PUBLISHED, QUALITIES, generic_start
from doseeng.machines.library import SHIPPED, find_machine, find_photon_machine
from doseeng.machines.photoncommission import (
    FINE_MM,
    Fields,
    commission_photon,
    compared,
    residuals,
    usable,
    with_spectrum,
)
from doseeng.machines.photonfile import photon_machine_text, read_photon_machine
from doseeng.machines.photonmodel import Electrons, PhotonMachine, Source
from doseeng.machines.scandata import Scan
from doseeng.machines.scans import Measurements, read_scans

Run = Callable[..., Any]
SIDE_MM = 60.0
DEPTHS_MM = np.concatenate([np.arange(2.0, 20.0, 3.0), np.arange(20.0, 300.0, 20.0)])


@pytest.fixture(scope="module")
def truth() -> PhotonMachine:
    """A generic linac with another spectrum, focal spot and more contaminant electrons."""
    machine = with_spectrum(find_photon_machine("generic", 6.0), 1.2, 2.8)
    return replace(machine, head=Source((1.6, 1.6), 0.06, 22.0, 125.0), electrons=Electrons(0.3, 8.0, 25.0))


@pytest.fixture(scope="module")
def scans(truth: PhotonMachine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A depth dose and a profile of a small field, as a person would write them."""
    folder = tmp_path_factory.mktemp("measured") / "Linac 1, June"
    folder.mkdir()
    field = Fields(truth, cpu(), FINE_MM).of((SIDE_MM, SIDE_MM), 900.0)
    across = np.arange(-60.0, 61.0, 1.5)
    write_scan(folder / "depth.csv", "depth", None, DEPTHS_MM, field.at(DEPTHS_MM))
    write_scan(folder / "x.csv", "x", 100.0, across, field.at(100.0, across))
    return folder


def write_scan(path: Path, axis: str, depth_mm: float | None, position_mm: np.ndarray, dose: np.ndarray) -> None:
    keys = {"axis": axis, "field_x_mm": SIDE_MM, "field_y_mm": SIDE_MM, "ssd_mm": 900.0, "depth_mm": depth_mm}
    lines = ["# doseeng scan", *(f"# {key} = {value}" for key, value in keys.items() if value is not None)]
    lines += ["position_mm,dose", *(f"{p:g},{d:.6g}" for p, d in zip(position_mm, dose, strict=True))]
    path.write_text("\n".join(lines))


def test_a_machine_is_fitted_drawn_and_installed(
    doseeng: Run, scans: Path, truth: PhotonMachine, tmp_path: Path
) -> None:
    arguments = ("machine", "commission", "photon", scans, "--energy", 6, "--name", "Room 3")
    reference = ("--reference-ssd", 1000, "--reference-depth", 15, "--reference-field", 100, "--cgy-per-mu", 1.02)
    done = doseeng(*arguments, "--alias", "TR3", "--alias", "TR4", *reference)
    assert done.code == 0, done.err
    folder = tmp_path / "config" / "doseeng" / "machines"
    assert str(folder / "room_3_6_mv_standard.toml") in done.out
    machine = find_photon_machine("tr4", 6.0, "STANDARD")
    assert (machine.name, machine.version, machine.aliases) == ("Room 3", "1", ("TR3", "TR4"))
    assert machine.source == "water scans in 'Linac 1, June'"
    ref = machine.reference
    assert (ref.ssd_mm, ref.depth_mm, ref.field_mm, ref.gy_per_mu) == (1000.0, 15.0, 100.0, pytest.approx(0.0102))
    assert machine.head.focal_mm[0] == pytest.approx(1.6, abs=0.15)
    assert machine.electrons.share == pytest.approx(0.3, rel=0.15)
    mean, wanted = (m.spectrum_mev @ m.spectrum_weight for m in (machine, truth))
    assert mean == pytest.approx(wanted, rel=0.05)
    said = " ".join(done.out.split())
    for words in ("depth dose 60 x 60 mm", "profile-x 60 x 60 mm, 100 mm deep", "AAPM MPPG 5.a"):
        assert words in said
    told = " ".join(done.err.split())
    assert "kept-from-start extra-focal source" in told
    assert "kept-from-start jaws and leaves" in told
    assert "dose per monitor unit" not in told
    picture = imread(folder / "room_3_6_mv_standard-commissioning.png")
    assert min(picture.shape[:2]) > 800


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ((), "ConfigError", "--energy MV"),
        (("--energy", 18), "MachineError", "no photon machine 'generic' of 18 MV STANDARD"),
        (("--like", "generic-pbs"), "MachineError", "'generic-pbs' is a proton machine"),
        (("--like", "nowhere"), "MachineError", "no machine 'nowhere'"),
        (("--energy", 6, "--mode", "SRS"), "UsageError", "STANDARD"),
        (("--energy", 6, "--cgy-per-mu", 0), "UsageError", "--cgy-per-mu"),
        (("--energy", 6, "--plots", "."), "ConfigError", "cannot write"),
        (("--energy", 6, "--machine-folder", "nowhere"), "MachineError", "does not exist"),
    ],
)
def test_wrong_requests(
    doseeng: Run, scans: Path, tmp_path: Path, options: tuple[object, ...], kind: str, message: str
) -> None:
    done = doseeng("machine", "commission", "photon", scans, "--name", "x", *options, "--json")
    assert (done.code, done.result["error"]["type"]) == (4, kind)
    assert message in done.result["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_folders_that_decide_nothing(doseeng: Run, scans: Path, tmp_path: Path) -> None:
    arguments = ("--energy", 6, "--name", "x")
    assert (
        "folder of scans nowhere does not exist"
        in doseeng("machine", "commission", "photon", "nowhere", *arguments).err
    )
    few = tmp_path / "few"
    few.mkdir()
    (few / "x.csv").write_bytes((scans / "x.csv").read_bytes())
    write_scan(few / "build-up.csv", "depth", None, DEPTHS_MM[:5], DEPTHS_MM[:5])
    done = doseeng("machine", "commission", "photon", few, *arguments)
    assert done.code == 4
    assert "no depth dose that can be used" in done.err
    assert "build-up.csv, depth 60 x 60 mm: expected dose at two points or more from 20 mm on" in done.err


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[PhotonMachine]:
    """Machines that fits start from, where a test is about nothing else; no fit and no picture is made."""
    seen: list[PhotonMachine] = []

    def fit(measured: Measurements, start: PhotonMachine, _progress: object) -> tuple[PhotonMachine, tuple, tuple]:
        seen.append(start)
        return start, residuals(start, measured, cpu()), ()

    monkeypatch.setattr("cluster.cli.commission.commission_photon", fit)
    monkeypatch.setattr("cluster.cli.commission._draw", lambda *_: None)
    return seen


def test_results_for_programs(doseeng: Run, scans: Path, truth: PhotonMachine, starts: list[PhotonMachine]) -> None:
    Path("linac").mkdir()
    Path("linac/truth.toml").write_text(photon_machine_text(replace(truth, name="truth")))
    arguments = ("--like", "truth", "--machine-folder", "linac", "--name", "x", "--out", "a/m.toml", "--json")
    told = doseeng("machine", "commission", "photon", scans, *arguments, "--plots", "b/plot.png").result
    assert (told["file"], told["plots"]) == ("a/m.toml", "b/plot.png")
    assert (told["machine"]["name"], told["machine"]["kind"]) == ("x", "photon")
    depth, profile = told["residuals"]
    assert (depth["what"], depth["penumbra_mm"]) == ("depth dose 60 x 60 mm", None)
    # The machine that the scans were made with, to the digits of their files.
    assert abs(depth["worst_percent"]) < 0.01
    assert abs(profile["penumbra_mm"]) < 0.01


def test_a_beam_that_no_machine_has_starts_from_another(doseeng: Run, scans: Path, starts: list[PhotonMachine]) -> None:
    arguments = ("machine", "commission", "photon", scans, "--like", "generic-6mv", "--name", "x", "--out", "m.toml")
    told = doseeng(*arguments, "--energy", 4, "--mode", "FFF", "--json").result
    (start,) = starts
    assert (start.name, start.energy_mv, start.fluence_mode, start.softening) == ("generic-6mv", 4.0, "FFF", 0.0)
    assert start.leaves == find_photon_machine("generic", 6.0).leaves
    assert [n["where"] for n in told["notices"]] == ["jaws and leaves", "dose per monitor unit"]
    assert told["machine"]["aliases"] == []
    assert "Fitted to 2 scans and 0 output factors" in read_photon_machine(Path("m.toml")).description


def test_like_and_energy_together_name_one_beam_of_a_linac(
    doseeng: Run, scans: Path, truth: PhotonMachine, starts: list[PhotonMachine]
) -> None:
    folder = Path("linac")
    folder.mkdir()
    for energy in (6.0, 10.0):
        machine = replace(truth, name=f"R{energy:g}", energy_mv=energy, aliases=("ROOM",))
        (folder / f"{energy:g}.toml").write_text(photon_machine_text(machine))
    arguments = ("machine", "commission", "photon", scans, "--like", "room", "--name", "x", "--machine-folder", folder)
    done = doseeng(*arguments)
    assert "machine 'room' has 10 MV STANDARD, 6 MV STANDARD; say which" in done.err
    assert doseeng(*arguments, "--energy", 10, "--out", "m.toml").code == 0
    assert doseeng("machine", "commission", "photon", scans, "--energy", 10, "--mode", "FFF", "--name", "y").code == 0
    assert [start.name for start in starts] == ["R10", "generic-10mv-fff"]


# --- what is drawn and judged ---------------------------------------------------------------------------------------


def test_every_measurement_has_its_panel(truth: PhotonMachine, tmp_path: Path) -> None:
    x = np.arange(-60.0, 61.0, 3.0)
    fields = Fields(truth, cpu(), FINE_MM)
    kinds = ("profile-x", "profile-y", "diagonal")
    blank = [Scan(kind, (SIDE_MM, SIDE_MM), 900.0, 100.0, x, np.ones_like(x), kind) for kind in kinds]
    depth = Scan("depth", (SIDE_MM, SIDE_MM), 900.0, None, DEPTHS_MM, np.ones_like(DEPTHS_MM), "d")
    scans = tuple(replace(scan, dose=fields.along(scan)) for scan in (depth, *blank))
    figure = commissioning_figure(truth, truth, Measurements(scans, ()), cpu())
    titles = [axes.get_title(loc="left") for axes in figure.get_axes()]
    assert [title for title in titles if title] == [
        "Depth dose",
        "Profiles along X, 100 mm deep",
        "Profiles along Y, 100 mm deep",
        "Diagonal profiles, 100 mm deep",
        "Penumbra, 80–20 % of the axis",
        "Spectrum on the axis",
        "Open beam in air",
        "What was fitted, and from what",
    ]
    for name in ("a.png", "new/b.png"):
        write_commissioning(tmp_path / name, truth, truth, Measurements(scans, ()), cpu())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "new" / "b.png").read_bytes()
    # Measured with the machine itself: no point lies off its line, no residual off zero.
    points, line = figure.get_axes()[0].get_lines()[-2:]
    on_line = np.interp(points.get_xdata(), line.get_xdata(), line.get_ydata())
    np.testing.assert_allclose(points.get_ydata(), on_line, atol=0.2)
    assert max(np.abs(axes.get_lines()[-1].get_ydata()).max() for axes in figure.get_axes()[1:8:2]) < 1e-6


def test_residuals_judge_what_is_said(truth: PhotonMachine) -> None:
    """1 % at one point deep in water, 3 % in build-up; 2 % inside a field, 5 % outside it."""
    fields = Fields(truth, cpu(), FINE_MM)
    depth = Scan("depth", (SIDE_MM, SIDE_MM), 900.0, None, DEPTHS_MM, DEPTHS_MM, "d")
    x = np.arange(-50.0, 51.0, 2.0)
    across = Scan("profile-x", (SIDE_MM, SIDE_MM), 900.0, 100.0, x, x, "x")
    depth, across = (replace(scan, dose=7.0 * fields.along(scan)) for scan in (depth, across))
    depth.dose[DEPTHS_MM == 200.0] *= 1.0 / 1.01
    depth.dose[DEPTHS_MM == 5.0] *= 0.97
    centre = across.dose[x == 0.0][0]
    across.dose[x == 10.0] -= 0.02 * centre
    across.dose[x == 40.0] -= 0.05 * centre
    one, two = residuals(truth, Measurements((depth, across), ()), cpu())
    judged = np.count_nonzero(DEPTHS_MM >= 20.0)
    assert one.worst_percent == pytest.approx(1.0 * (1 - 1 / judged), abs=0.02)
    assert two.worst_percent == pytest.approx(2.0, abs=1e-6)
    assert two.rms_percent == pytest.approx(2.0 / np.sqrt(np.count_nonzero(np.abs(x) <= 24.0)), rel=1e-3)
    off = compared(fields, across).off_percent
    assert off[x == 40.0] == pytest.approx(5.0, abs=1e-6)


@pytest.mark.parametrize(
    ("value", "limits", "shown"),
    [
        (-2.0, WITHIN_PERCENT, "[green]-2.00[/green]"),
        (2.01, WITHIN_PERCENT, "[yellow]+2.01[/yellow]"),
        (-5.1, WITHIN_PERCENT, "[red]-5.10[/red]"),
        (2.5, WITHIN_MM, "[yellow]+2.50[/yellow]"),
    ],
)
def test_colors_follow_the_tolerances(value: float, limits: tuple[float, float], shown: str) -> None:
    assert _colored(value, limits) == shown


def test_scans_that_say_nothing_are_left_out_by_name() -> None:
    field, dose = (100.0, 100.0), np.linspace(1.0, 0.2, 9)
    deep, across = np.linspace(-5.0, 395.0, 9), np.linspace(-40.0, 40.0, 9)
    scans = (
        Scan("depth", field, 1000.0, None, deep, dose, "long.csv"),
        Scan("depth", field, 1000.0, None, deep, dose - 0.5, "negative.csv"),
        Scan("profile-x", field, 1000.0, 100.0, across, dose, "good.csv"),
        Scan("profile-y", field, 1000.0, 100.0, across + 50.0, dose, "beside.csv"),
        Scan("profile-y", field, 1000.0, 360.0, across, dose, "deep.csv"),
    )
    found = usable(Measurements(scans, ()))
    assert [scan.file for scan in found.scans] == ["long.csv", "good.csv"]
    assert found.scans[0].position_mm.tolist() == deep[1:8].tolist()
    assert [(n.code, n.where.split(",")[0]) for n in found.notices] == [
        ("points-left-out", "long.csv"),
        ("scan-left-out", "negative.csv"),
        ("scan-left-out", "beside.csv"),
        ("scan-left-out", "deep.csv"),
    ]
    assert usable(found).notices == found.notices


def test_a_diagonal_reaches_farther_and_spoils_nothing(truth: PhotonMachine) -> None:
    """Profiles across a wide field tell nothing beyond its sides, where only the diagonal is inside the field."""
    wide = replace(truth, profile_mm=np.array([0.0, 100.0, 280.0]), profile=np.array([1.0, 1.04, 0.92]))
    # They end where the dose does not fall to 20 %: no focal spot to fit, which would take long.
    side, x = (200.0, 200.0), np.arange(-106.0, 107.0, 4.0)
    blank = (
        Scan("depth", (SIDE_MM, SIDE_MM), 1000.0, None, DEPTHS_MM, DEPTHS_MM, "d"),
        Scan("profile-x", side, 1000.0, 50.0, x, x, "x"),
        Scan("diagonal", side, 1000.0, 50.0, x, x, "diagonal"),
    )
    fields = Fields(wide, cpu())
    measured = Measurements(tuple(replace(scan, dose=fields.along(scan)) for scan in blank), ())
    # Another focal spot: what is measured in the penumbra is wrong for the profile.
    start = replace(truth, head=replace(truth.head, focal_mm=(0.3, 0.3)))
    found, _, notices = commission_photon(measured, start, backend=cpu())
    assert "focal spot" in [n.where for n in notices]
    assert found.profile_mm[-1] == 120.0
    wanted = np.interp(found.profile_mm, wide.profile_mm, wide.profile)
    np.testing.assert_allclose(found.profile, wanted, atol=0.003)


def test_a_shipped_machine_comes_out_again() -> None:
    """As far as another processor's rounding lets a fit end at the same place."""
    (quality,) = (q for q in QUALITIES if q.folder == "10mv-fff")
    machine, _, _ = commission_photon(read_scans(PUBLISHED / quality.folder), generic_start(quality))
    shipped = read_photon_machine(SHIPPED / f"{quality.name}.toml")
    assert (machine.head, machine.electrons, machine.leaves) == (shipped.head, shipped.electrons, shipped.leaves)
    for name in ("spectrum_mev", "spectrum_weight", "profile_mm", "profile"):
        np.testing.assert_allclose(getattr(machine, name), getattr(shipped, name), rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(machine.cones.primary, shipped.cones.primary, rtol=2e-3, atol=1e-6)


# --- adjust ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case_dir(photon_case: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photon_case.write(tmp_path_factory.mktemp("photons") / "case")


@pytest.fixture
def on_linac(doseeng: Run, photon_case: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line with the case's machine installed."""
    monkeypatch.setenv("DOSEENG_MACHINES", str(photon_case.folder))
    return doseeng


def test_adjust_meets_the_planning_system(on_linac: Run, photon_case: Any, case_dir: Path) -> None:
    done = on_linac("machine", "adjust", "L6", case_dir, "--leaf-gap", 3, "--name", "L6 mine", "--out", "m/mine.toml")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    for words in ("Adjusted to point (0, 0, 0) mm", "leaf gap of MLC, mm │ 1.00 │ 3.00 │ 3.00", "m/mine.toml"):
        assert words in said
    made = read_photon_machine(Path("m/mine.toml"))
    assert (made.name, made.aliases) == ("L6 mine", ("LINAC",))
    assert made.source == "made up for tests; adjusted from 'L6' 1"
    assert made.leaves[0].tip_offset_mm == 1.5
    # A wider gap gives more; the output takes back what it adds to the dose that the case came with.
    assert 0.97 * 0.01 < made.reference.gy_per_mu < 0.999 * 0.01
    again = on_linac("dose", case_dir, "--machine", "L6 mine", "--machine-folder", "m", "--out", "rd.dcm", "--json")
    (plan,) = (c for c in again.result["comparisons"] if c["what"] == "plan")
    assert plan["mean_ratio"] == pytest.approx(1.0, abs=0.02)
    assert not any(secret in done.out + done.err for secret in photon_case.secrets)


def test_adjust_for_programs(on_linac: Run, case_dir: Path) -> None:
    point = ("--point", 4, -4, 2.5)
    done = on_linac(
        "machine", "adjust", "L6", case_dir, *point, "--dose", 2.2, "--name", "x", "--out", "x.toml", "--json"
    )
    told = done.result
    assert told["point_mm"] == [4.0, -4.0, 2.5]
    assert told["dose"]["before_gy"] == told["dose"]["with_leaf_gap_gy"] == pytest.approx(2.0, abs=0.1)
    assert told["dose"]["after_gy"] == 2.2
    assert told["ratio"] == pytest.approx(2.2 / told["dose"]["before_gy"])
    assert told["machine"]["reference"]["gy_per_mu"] == pytest.approx(0.01 * told["ratio"])
    assert "machine-replaced" not in {n["code"] for n in told["notices"]}


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (("--point", 0, 0, 500), "ConfigError", "lies outside the planning system's dose"),
        (("--dose", 9), "MachineError", "a factor of"),
        (("--leaf-gap", -1), "UsageError", "--leaf-gap"),
        (("--machine-folder", "nowhere"), "MachineError", "does not exist"),
    ],
)
def test_adjust_refuses(
    on_linac: Run, case_dir: Path, tmp_path: Path, options: tuple[object, ...], kind: str, message: str
) -> None:
    done = on_linac("machine", "adjust", "L6", case_dir, "--name", "x", *options, "--json")
    assert (done.code, done.result["error"]["type"]) == (4, kind)
    assert message in done.result["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_adjust_is_for_photons(doseeng: Run, water_case: Any, case_dir: Path, tmp_path: Path) -> None:
    protons = water_case.write(tmp_path / "case", replace(water_case.case, doses=()))
    done = doseeng("machine", "adjust", "generic-6mv", protons, "--name", "x", "--json")
    assert (done.code, done.result["error"]["type"]) == (4, "PlanError")
    assert "has proton beams; a photon plan was expected" in done.result["error"]["message"]
    write_machine(find_machine("generic-pbs"), tmp_path / "m" / "generic_pbs.toml")
    done = doseeng("machine", "adjust", "generic-pbs", case_dir, "--name", "x", "--machine-folder", "m", "--json")
    assert done.result["error"]["type"] == "MachineError"
    assert "no photon machine 'generic-pbs' of 6 MV" in done.result["error"]["message"]
