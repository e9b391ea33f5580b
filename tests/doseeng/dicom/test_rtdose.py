"""RT Dose in and out: grids in every convention, units, scaling, references, embedded histograms."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset

from doseeng.dicom.rtdose import dose_from, embedded_dvhs, read_dose, write_dose
from doseeng.dicom.writing import new_context
from doseeng.dose import Dose, Quantity
from doseeng.errors import DicomError, GeometryError
from doseeng.grid import Grid, Volume
from doseeng.plan import Plan, ProtonBeam

Builder = Callable[..., FileDataset]

PLAN_UID = "1.2.826.0.1.77"


@pytest.fixture
def plan() -> Plan:
    def beam(number: int, group: int) -> ProtonBeam:
        spot = np.zeros((1, 2)), np.array([100.0]), np.array([1.0])
        return ProtonBeam(number, f"B{number}", "M", (0, 0, 0), 0.0, 0.0, *spot, fraction_group=group)

    return Plan("demo", PLAN_UID, "HFS", (beam(1, 1), beam(4, 2)))


def random_dose(grid: Grid, **kwargs: object) -> Dose:
    values = np.random.default_rng(3).gamma(1.0, 20.0, grid.shape).astype(np.float32)
    return Dose(Volume(grid, values), plan_uid=PLAN_UID, **kwargs)


def test_relative_offsets(dose_object: Builder) -> None:
    ds = dose_object(scaling=0.5)
    dose = dose_from(ds, "x")
    assert dose.volume.grid.origin_mm == (-10, -20, -30)
    assert dose.volume.grid.spacing_mm == (1.5, 2.0, 3.0)
    assert dose.volume.values[2, 1, 3] == (2 * 12 + 1 * 4 + 3) * 0.5
    assert (dose.quantity, dose.summation, dose.beam_numbers) == (Quantity.PHYSICAL, "PLAN", ())
    assert dose.plan_uid == ds.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID


def test_absolute_offsets_mean_the_same(dose_object: Builder) -> None:
    absolute = dose_from(dose_object(offsets=[-30.0, -27.0, -24.0, -21.0, -18.0]), "x").volume
    relative = dose_from(dose_object(), "x").volume
    assert absolute.grid.is_same(relative.grid)
    np.testing.assert_array_equal(absolute.values, relative.values)


@pytest.mark.parametrize("offsets", [[0.0, -3.0, -6.0, -9.0, -12.0], [-30.0, -33.0, -36.0, -39.0, -42.0]])
def test_descending_planes_are_turned_round(dose_object: Builder, offsets: list[float]) -> None:
    volume = dose_from(dose_object(offsets=offsets), "x").volume
    assert volume.grid.origin_mm == (-10, -20, -42)
    assert volume.values[-1, 0, 0] == 0  # the first stored plane lies at z = -30, now the last
    assert volume.values[0, 0, 0] == pytest.approx(0.048)


def test_offsets_follow_the_normal_of_other_orientations(dose_object: Builder) -> None:
    ds = dose_object()
    ds.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]  # feet first: the normal points to -z
    grid = dose_from(ds, "x").volume.grid
    assert grid.to_patient((1, 1, 1)) == pytest.approx((-11.5, -18.0, -33.0))


def test_one_plane_needs_its_thickness(dose_object: Builder) -> None:
    ds = dose_object(np.ones((1, 3, 4), np.uint16))
    del ds.NumberOfFrames, ds.GridFrameOffsetVector
    with pytest.raises(GeometryError, match="SliceThickness"):
        dose_from(ds, "x")
    ds.SliceThickness = 2.5
    assert dose_from(ds, "x").volume.grid.spacing_mm == (1.5, 2.0, 2.5)


def test_beam_dose_names_its_beams(dose_object: Builder) -> None:
    ds = dose_object()
    ds.DoseSummationType, ds.DoseType = "BEAM", "EFFECTIVE"
    beam, group = Dataset(), Dataset()
    beam.ReferencedBeamNumber = 4
    group.ReferencedBeamSequence, group.ReferencedFractionGroupNumber = [beam], 1
    ds.ReferencedRTPlanSequence[0].ReferencedFractionGroupSequence = [group]
    dose = dose_from(ds, "x")
    assert (dose.quantity, dose.summation, dose.beam_numbers) == (Quantity.RBE_WEIGHTED, "BEAM", (4,))


@pytest.mark.parametrize(
    ("keyword", "value", "error", "message"),
    [
        ("DoseUnits", "RELATIVE", DicomError, "DoseUnits is 'RELATIVE', expected GY"),
        ("DoseType", "ERROR", DicomError, "DoseType is 'ERROR'"),
        ("DoseGridScaling", None, DicomError, "DoseGridScaling .*is missing"),
        ("DoseGridScaling", 0.0, DicomError, "DoseGridScaling must be positive, found 0"),
        ("DoseGridScaling", -1.0, DicomError, "DoseGridScaling must be positive, found -1"),
        ("GridFrameOffsetVector", [0.0, 3, 6, 9, 13], GeometryError, "planes are uneven: 4 mm from plane 4 to 5"),
        ("GridFrameOffsetVector", [0.0, 0, 0, 0, 0], GeometryError, "planes are uneven"),
        ("GridFrameOffsetVector", [0.0, 3, 6, 3, 12], GeometryError, "planes are uneven"),
        ("GridFrameOffsetVector", [5.0, 8, 11, 14, 17], GeometryError, r"starts at 5 mm; expected 0 .*\(-30 mm\)"),
        ("GridFrameOffsetVector", [0.0, 3, 6], DicomError, "has 3 values for 5 dose planes"),
        ("GridFrameOffsetVector", None, DicomError, "has 0 values for 5 dose planes"),
        ("PixelData", None, DicomError, "holds no pixel data"),
        ("PixelData", b"\0" * 10, DicomError, "pixel data do not fit the header"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2", DicomError, "expected RT Dose"),
    ],
)
def test_unusable_doses_are_refused(
    dose_object: Builder, keyword: str, value: object, error: type[Exception], message: str
) -> None:
    ds = dose_object()
    if value is None:
        delattr(ds, keyword)
    else:
        setattr(ds, keyword, value)
    with pytest.raises(error, match=f"'d.dcm': .*{message}"):
        dose_from(ds, "'d.dcm'")


def test_scaling_that_is_no_number_is_refused(dose_object: Builder, tmp_path: Path) -> None:
    path = tmp_path / "d.dcm"
    dose_object(scaling=0.125).save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes().replace(b"0.125 ", b"  NaN ").replace(b"0.125\0", b"  NaN "))
    with pytest.raises(DicomError, match="DoseGridScaling"):
        read_dose(path)


@pytest.mark.parametrize(
    "grid",
    [
        Grid((5, 4, 3), (1.5, 2.0, 2.5), (-10.1234567, 3.0, 7.0)),
        Grid((5, 4, 3), (1.5, 2.0, 2.5), (0, 0, 0), [[-1, 0, 0], [0, 1, 0], [0, 0, -1]]),
        Grid((5, 4, 3), (1.5, 2.0, 2.5), (0, 0, 0), [[1, 0, 0], [0, 1, 0], [0, 0, -1]]),  # left-handed
    ],
)
def test_written_dose_comes_back_within_half_a_step(tmp_path: Path, plan: Plan, grid: Grid) -> None:
    path = tmp_path / "dose.dcm"
    dose = random_dose(grid, quantity=Quantity.RBE_WEIGHTED, summation="BEAM", beam_numbers=(1, 4), comment="a\\b\nc")
    write_dose(path, dose, new_context(), plan, "nominal")
    back = read_dose(path)
    scaling = float(pydicom.dcmread(path).DoseGridScaling)
    assert scaling == pytest.approx(float(dose.volume.values.max()) / 2**32, rel=1e-6)
    for index in np.ndindex(grid.shape):
        i, j, k = np.rint(back.volume.grid.to_index(grid.to_patient(index[::-1]))).astype(int)
        assert abs(float(back.volume.values[k, j, i]) - float(dose.volume.values[index])) <= scaling / 2
    assert back.quantity is Quantity.RBE_WEIGHTED
    assert (back.summation, back.beam_numbers, back.plan_uid) == ("BEAM", (1, 4), PLAN_UID)
    assert back.comment == "a/b c"
    assert [p.name for p in tmp_path.iterdir()] == ["dose.dcm"]


def test_beams_are_written_in_their_fraction_groups(tmp_path: Path, plan: Plan) -> None:
    dose = random_dose(Grid((2, 2, 2), (1, 1, 1), (0, 0, 0)), summation="BEAM", beam_numbers=(4,))
    write_dose(tmp_path / "d.dcm", dose, new_context(), plan)
    reference = pydicom.dcmread(tmp_path / "d.dcm").ReferencedRTPlanSequence[0]
    assert reference.ReferencedSOPClassUID.name == "RT Ion Plan Storage"
    assert reference.ReferencedFractionGroupSequence[0].ReferencedFractionGroupNumber == 2


def test_written_dose_opens_in_simpleitk(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "dose.dcm"
    dose = random_dose(Grid((5, 4, 3), (1.5, 2.0, 2.5), (-10.0, 3.0, 7.0)))
    write_dose(path, dose, new_context(), plan)
    image = sitk.ReadImage(str(path))
    assert image.GetOrigin() == pytest.approx(dose.volume.grid.origin_mm)
    assert image.GetSpacing() == pytest.approx(dose.volume.grid.spacing_mm)
    scaling = float(pydicom.dcmread(path).DoseGridScaling)
    np.testing.assert_allclose(sitk.GetArrayFromImage(image) * scaling, dose.volume.values, rtol=1e-6)


def test_written_dose_is_well_formed_for_dcmtk(tmp_path: Path, plan: Plan) -> None:
    if shutil.which("dcmdump") is None:
        pytest.skip("dcmdump (dcmtk) is not installed")
    write_dose(tmp_path / "d.dcm", random_dose(Grid((2, 2, 2), (1, 1, 1), (0, 0, 0))), new_context(), plan)
    dumped = subprocess.run(["dcmdump", tmp_path / "d.dcm"], capture_output=True, text=True, check=False)
    assert (dumped.returncode, dumped.stderr) == (0, "")
    assert "RTDoseStorage" in dumped.stdout


def test_zero_dose_and_rounding_noise_are_written(tmp_path: Path, plan: Plan) -> None:
    grid = Grid((2, 2, 2), (1, 1, 1), (0, 0, 0))
    write_dose(tmp_path / "zero.dcm", Dose(Volume(grid, np.zeros(grid.shape))), new_context(), plan)
    assert np.all(read_dose(tmp_path / "zero.dcm").volume.values == 0)
    values = np.full(grid.shape, 50.0, np.float32)
    values[0, 0, 0] = -1e-4
    write_dose(tmp_path / "noise.dcm", Dose(Volume(grid, values)), new_context(), plan)
    assert read_dose(tmp_path / "noise.dcm").volume.values[0, 0, 0] == 0


@pytest.mark.parametrize(("value", "message"), [(-1.0, "negative"), (np.nan, "NaN"), (np.inf, "NaN or infinity")])
def test_impossible_doses_are_not_written(tmp_path: Path, plan: Plan, value: float, message: str) -> None:
    values = np.ones((2, 2, 2), np.float32)
    values[1, 1, 1] = value
    with pytest.raises(DicomError, match=message):
        write_dose(tmp_path / "d.dcm", Dose(Volume(Grid((2, 2, 2), (1, 1, 1), (0, 0, 0)), values)), new_context(), plan)
    assert list(tmp_path.iterdir()) == []


def test_dose_of_another_plan_or_beam_is_not_written(tmp_path: Path, plan: Plan) -> None:
    dose = random_dose(Grid((2, 2, 2), (1, 1, 1), (0, 0, 0)))
    with pytest.raises(DicomError, match=r"belongs to plan 1\.2\.9, not to plan 'demo'"):
        write_dose(tmp_path / "d.dcm", replace(dose, plan_uid="1.2.9"), new_context(), plan)
    with pytest.raises(DicomError, match="beam 3, which plan 'demo' does not have"):
        write_dose(tmp_path / "d.dcm", replace(dose, beam_numbers=(3,)), new_context(), plan)


def test_failed_writing_leaves_nothing_behind(tmp_path: Path, plan: Plan) -> None:
    dose = random_dose(Grid((2, 2, 2), (1, 1, 1), (0, 0, 0)))
    with pytest.raises(DicomError, match="cannot write"):
        write_dose(tmp_path / "missing" / "d.dcm", dose, new_context(), plan)
    (tmp_path / "d.dcm").mkdir()
    with pytest.raises(DicomError, match="cannot write"):
        write_dose(tmp_path / "d.dcm", dose, new_context(), plan)
    assert [p.name for p in tmp_path.iterdir()] == ["d.dcm"]


@pytest.mark.parametrize(
    ("name", "pattern", "maximum_gy"),
    [("alderson_vmat", "RD*3300*.dcm", 61.36), ("pinnacle_two_fields", "*183309.dcm", 49.872)],
)
def test_real_doses_read_like_simpleitk(
    unzipped: Callable[[str], Path], name: str, pattern: str, maximum_gy: float
) -> None:
    path = next(unzipped(name).rglob(pattern))
    dose = read_dose(path)
    assert dose.volume.values.max() == pytest.approx(maximum_gy, abs=0.005)
    image = sitk.ReadImage(str(path))
    assert dose.volume.grid.origin_mm == pytest.approx(image.GetOrigin())
    assert dose.volume.grid.spacing_mm == pytest.approx(image.GetSpacing())
    scaling = float(pydicom.dcmread(path, stop_before_pixels=True).DoseGridScaling)
    np.testing.assert_allclose(dose.volume.values, sitk.GetArrayFromImage(image) * scaling, rtol=1e-6)


def test_embedded_histograms(unzipped: Callable[[str], Path]) -> None:
    ds = pydicom.dcmread(next(unzipped("breast_imrt_embedded_dvh").rglob("rtdose.dcm")))
    histograms = embedded_dvhs(ds)
    assert [h.roi_number for h in histograms] == [1, 3, 4, 5, 6, 7, 8, 9, 10]
    for histogram in histograms:
        assert (histogram.kind, histogram.dose_units, histogram.volume_units) == ("CUMULATIVE", "GY", "CM3")
        assert len(histogram.dose_edges) == len(histogram.volume) + 1
        assert histogram.dose_edges[0] == 0
        assert np.all(np.diff(histogram.volume) <= 1e-9)


def test_broken_histograms_are_refused(dose_object: Builder) -> None:
    ds, item, roi = dose_object(), Dataset(), Dataset()
    roi.ReferencedROINumber = 2
    item.DVHReferencedROISequence, item.DVHType, item.DoseUnits, item.DVHVolumeUnits = [roi], "CUMULATIVE", "GY", "CM3"
    item.DVHDoseScaling, item.DVHNumberOfBins, item.DVHData = 2.0, 2, [0.1, 5.0, 0.1, 3.0]
    ds.DVHSequence = [item]
    (histogram,) = embedded_dvhs(ds)
    assert histogram.dose_edges == pytest.approx([0, 0.2, 0.4])
    assert histogram.volume == pytest.approx([5, 3])
    item.DVHNumberOfBins = 3
    with pytest.raises(DicomError, match="DVH 1: DVHNumberOfBins is 3 but DVHData holds 2"):
        embedded_dvhs(ds)
    item.DVHData = [0.1, 5.0, 0.1]
    with pytest.raises(DicomError, match="pairs of bin width and volume"):
        embedded_dvhs(ds)
