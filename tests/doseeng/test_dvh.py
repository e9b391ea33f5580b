"""DVHs and metrics: boxes and spheres in linear doses have closed forms; planning systems are compared below."""

import csv

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from doseeng.dicom.rtdose import dose_from, embedded_dvhs
from doseeng.dicom.rtstruct import structure_set_from
from doseeng.dvh import DoseSamples, cumulative_percent, sample_dose, sample_points
from doseeng.errors import MetricError, StructureError
from doseeng.grid import Grid, Volume
from doseeng.masks import PRISM_REACH_SPACINGS
from doseeng.metrics import (
    conformity_paddick,
    conformity_rtog,
    evaluate_metric,
    geud,
    homogeneity_index,
    parse_metric,
)
from doseeng.structures import Structure

DOSE_SPACING_MM = (5.0, 5.0, 5.0)
GRID = Grid((21, 21, 21), DOSE_SPACING_MM, (-50.0, -50.0, -50.0))
BOX_MM = np.array([(-7.3, -4.2), (6.1, -4.2), (6.1, 8.4), (-7.3, 8.4)])


def region(contours, name="lesion"):
    return Structure(1, name, "CTV", tuple(np.asarray(c, dtype=float) for c in contours))


def at(z_mm, uv):
    return np.column_stack([uv, np.full(len(uv), z_mm)])


def box():
    """13.4 x 12.6 mm, z from -6 to 6: not a multiple of the dose voxel, nor in phase with it."""
    spacing = 12.0 / (3 + 2 * PRISM_REACH_SPACINGS)
    return region(at(z, BOX_MM) for z in spacing * (np.arange(4) - 1.5))


def ball(radius_mm, spacing_mm, center=(0.0, 0.0, 0.0)):
    angle = 2 * np.pi * np.arange(360) / 360
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    heights = np.arange(-radius_mm + spacing_mm / 2, radius_mm, spacing_mm)
    return region(at(z + center[2], np.sqrt(radius_mm**2 - z**2) * circle + np.array(center[:2])) for z in heights)


def linear(gradient, offset=50.0, grid=GRID):
    index = np.stack(np.indices(grid.shape)[::-1], axis=-1)
    return Volume(grid, (offset + grid.to_patient(index) @ np.asarray(gradient, dtype=float)).astype(np.float32))


def sampled(structure, dose):
    return sample_dose(sample_points(structure, dose.grid.spacing_mm), dose)


@pytest.mark.parametrize(("axis", "low", "high"), [(0, -7.3, 6.1), (1, -4.2, 8.4), (2, -6.0, 6.0)])
def test_box_in_a_linear_dose_has_a_straight_dvh(axis, low, high):
    samples = sampled(box(), linear(2.0 * np.eye(3)[axis]))
    dose = lambda position_mm: 50.0 + 2.0 * position_mm  # noqa: E731
    assert samples.volume_cm3 == pytest.approx(13.4 * 12.6 * 12.0 / 1000, rel=1e-5)
    assert samples.covered == pytest.approx(1.0)
    assert evaluate_metric(samples, "Dmean") == pytest.approx(dose((low + high) / 2), abs=0.01)
    for percent in (2, 5, 50, 95, 98):
        expected = dose(high - (high - low) * percent / 100)
        assert evaluate_metric(samples, f"D{percent}%") == pytest.approx(expected, abs=0.15), percent
    assert evaluate_metric(samples, "Dmax") == pytest.approx(dose(high), abs=0.5)
    assert evaluate_metric(samples, "Dmin") == pytest.approx(dose(low), abs=0.5)
    middle = dose(low + 0.3 * (high - low))
    assert evaluate_metric(samples, f"V{middle:.4f}Gy") == pytest.approx(70.0, abs=0.5)
    assert evaluate_metric(samples, f"V{middle:.4f}Gy[cm3]") == pytest.approx(0.7 * samples.volume_cm3, rel=0.01)
    assert evaluate_metric(samples, "D1cm3") == pytest.approx(dose(high - (high - low) / samples.volume_cm3), abs=0.15)


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 0, 1), (0.48, 0.6, 0.64)])
def test_sphere_in_a_linear_dose_follows_the_spherical_cap(direction):
    radius, gradient = 12.0, 1.5
    samples = sampled(ball(radius, 0.5), linear(gradient * np.asarray(direction)))
    height = np.linspace(-0.8, 0.8, 9) * radius
    cap = (radius - height) ** 2 * (2 * radius + height) / (4 * radius**3)
    np.testing.assert_allclose(cumulative_percent(samples, 50 + gradient * height), 100 * cap, atol=0.4)


def test_a_ball_smaller_than_the_dose_voxel_keeps_volume_and_dose():
    center = (1.3, -2.1, 0.4)
    samples = sampled(ball(2.0, 0.25, center), linear((1.0, -0.5, 0.8)))
    assert samples.volume_cm3 == pytest.approx(4 / 3 * np.pi * 0.2**3, rel=0.01)
    expected = 50 + 1.3 + 0.5 * 2.1 + 0.8 * 0.4
    assert evaluate_metric(samples, "Dmean") == pytest.approx(expected, abs=0.01)
    assert evaluate_metric(samples, "D50%") == pytest.approx(expected, abs=0.01)


def test_points_are_reused_for_every_dose():
    points = sample_points(box(), DOSE_SPACING_MM)
    assert points.weight_cm3.sum(dtype=float) == pytest.approx(points.volume_cm3)
    for offset in (10.0, 40.0):
        dose = linear((0, 0, 1.0), offset)
        assert evaluate_metric(sample_dose(points, dose), "Dmean") == pytest.approx(offset, abs=0.01)


def test_uniform_dose_reaches_its_own_level():
    samples = sampled(box(), Volume(GRID, np.full(GRID.shape, 57.0, dtype=np.float32)))
    assert evaluate_metric(samples, "V95%", prescription_gy=60.0) == pytest.approx(100.0)
    assert evaluate_metric(samples, "V95.1%", prescription_gy=60.0) == 0.0
    assert {evaluate_metric(samples, m) for m in ("D2%", "D98%", "Dmax", "Dmin")} == {57.0}
    assert homogeneity_index(samples) == 0.0
    np.testing.assert_allclose(cumulative_percent(samples, [0, 56.9, 57, 57.1]), [100, 100, 100, 0])


def test_dose_grid_that_clips_the_structure():
    left = Grid((21, 21, 11), DOSE_SPACING_MM, (-52.5, -50.0, -50.0))
    samples = sampled(box(), linear((0, 0, 1.0), grid=left))
    assert samples.covered == pytest.approx(7.3 / 13.4, abs=0.002)
    assert samples.volume_cm3 == pytest.approx(13.4 * 12.6 * 12.0 / 1000, rel=1e-5)
    assert evaluate_metric(samples, "V1Gy") == pytest.approx(100.0)
    assert evaluate_metric(samples, "V1Gy[cm3]") == pytest.approx(samples.covered * samples.volume_cm3)
    with pytest.raises(MetricError, match=r"only 1\.1 cm3 in the dose grid"):
        evaluate_metric(samples, "D2cm3")
    far = sampled(box(), linear((0, 0, 1.0), grid=Grid((3, 3, 3), DOSE_SPACING_MM, (400.0, 0.0, 0.0))))
    assert far.covered == 0.0
    with pytest.raises(MetricError, match="outside the dose grid"):
        evaluate_metric(far, "Dmean")
    with pytest.raises(MetricError, match="outside the dose grid"):
        cumulative_percent(far, [1.0])


def test_geud_of_a_uniform_spread_of_doses():
    samples = sampled(box(), linear((0, 0, 2.0)))
    low, high = 38.0, 62.0
    for a in (1.0, 8.0, -10.0, 0.5):
        expected = ((high ** (a + 1) - low ** (a + 1)) / ((a + 1) * (high - low))) ** (1 / a)
        assert geud(samples, a) == pytest.approx(expected, rel=1e-3)
        assert evaluate_metric(samples, f"gEUD{a:g}") == geud(samples, a)
    assert geud(samples, 200.0) == pytest.approx(60.9, abs=0.3)
    cold = DoseSamples("x", np.array([0, 50], np.float32), np.ones(2, np.float32), 2.0, 1.0)
    assert geud(cold, -5.0) == 0.0


def test_conformity_of_shifted_halves():
    # The body is the box twice over; half the target and as much outside it receive the prescription.
    target = DoseSamples("t", np.array([10, 60], np.float32), np.array([3, 3], np.float32), 6.0, 1.0)
    body = DoseSamples("b", np.array([0, 10, 60, 60], np.float32), np.full(4, 3, np.float32), 12.0, 1.0)
    assert conformity_rtog(target, body, 60.0) == pytest.approx(1.0)
    assert conformity_paddick(target, body, 60.0) == pytest.approx(0.25)
    assert conformity_paddick(target, body, 70.0) == 0.0


@pytest.mark.parametrize(
    "name", ["V95", "v95%", "D95 %", "D0x", "Dmeann", "gEUD0", "gEUD", "D101%", "", "D20Gy", "V2cm3"]
)
def test_unknown_metrics_are_refused(name):
    with pytest.raises(MetricError, match="metric"):
        parse_metric(name)


def test_percent_of_dose_needs_a_prescription():
    samples = sampled(box(), linear((0, 0, 1.0)))
    with pytest.raises(MetricError, match=r"V95% of 'lesion'.*prescription"):
        evaluate_metric(samples, "V95%")


def test_larger_volumes_than_the_structure_and_broken_doses_are_named():
    dose = linear((0, 0, 1.0))
    with pytest.raises(MetricError, match="D3cm3 of 'lesion'"):
        evaluate_metric(sampled(box(), dose), "D3cm3")
    broken = np.array(dose.values)
    broken[10, 10, 10] = np.nan
    with pytest.raises(MetricError, match="'lesion' is not finite"):
        sampled(box(), Volume(GRID, broken))
    with pytest.raises(StructureError, match="single plane"):
        sample_points(region([at(0.0, BOX_MM)]), DOSE_SPACING_MM)


def volume_deviation(samples, cm3):
    return 100 * (samples.volume_cm3 / cm3 - 1)


def dose_at(dose_gy, percent, wanted):
    """D_wanted% of a tabulated cumulative DVH."""
    return np.interp(-wanted, -np.asarray(percent), dose_gy)


def mean_of(dose_gy, percent):
    return np.sum(-np.diff(percent) * (dose_gy[1:] + dose_gy[:-1]) / 2) / 100 + dose_gy[-1] * percent[-1] / 100


@pytest.mark.parametrize("name", ["Bladder", "Femoral Head Lt", "Femoral Head RT", "PTV", "Rectum", "BODY"])
def test_eclipse_prostate(unzipped, name):
    folder = unzipped("eclipse_prostate_dvh")
    image = sitk.ReadImage(str(next(folder.rglob("*_Dose.nrrd"))))
    grid = Grid(image.GetSize()[::-1], image.GetSpacing(), image.GetOrigin())
    dose = Volume(grid, sitk.GetArrayFromImage(image))
    rows = list(csv.reader(next(folder.rglob("*_DvhTable_Eclipse.csv")).open()))
    column = rows[0].index(f"{name.replace(' ', '')}_DvhArray Dose (Gy)")
    cm3 = float(rows[0][column + 1].split("% of ")[1].split()[0])
    table = np.array([row[column : column + 2] for row in rows[1:] if row[column]], dtype=float)
    structures = structure_set_from(pydicom.dcmread(next(folder.rglob("RS*.dcm"))), "RTSTRUCT")
    samples = sampled(structures.by_name(name), dose)
    prescription_gy = 46.0
    assert abs(volume_deviation(samples, cm3)) < 1.0
    for percent in (95, 50):
        value = evaluate_metric(samples, f"D{percent}%")
        assert abs(value - dose_at(*table.T, percent)) < 0.005 * prescription_gy
    assert abs(evaluate_metric(samples, "Dmean") - mean_of(*table.T)) < 0.005 * prescription_gy


@pytest.mark.parametrize("name", ["Breast", "Heart", "Lt Lung", "Tumor Bed", "Tumor Bed Block"])
def test_embedded_breast_dvhs(unzipped, name):
    folder = unzipped("breast_imrt_embedded_dvh")
    structures = structure_set_from(pydicom.dcmread(next(folder.rglob("rtss.dcm"))), "RTSTRUCT")
    dataset = pydicom.dcmread(next(folder.rglob("rtdose.dcm")))
    structure = structures.by_name(name)
    stored = next(d for d in embedded_dvhs(dataset) if d.roi_number == structure.number)
    samples = sampled(structure, dose_from(dataset, "RTDOSE").volume)
    prescription_gy = 14.0
    percent = 100 * stored.volume / stored.volume[0]
    assert abs(volume_deviation(samples, stored.volume[0])) < 1.0
    for wanted in (95, 50):
        value = evaluate_metric(samples, f"D{wanted}%")
        assert abs(value - dose_at(stored.dose_edges[:-1], percent, wanted)) < 0.005 * prescription_gy
    # This system stores its mean, minimum and maximum in percent of the prescription.
    assert abs(evaluate_metric(samples, "Dmean") - stored.mean_dose / 100 * prescription_gy) < 0.005 * prescription_gy
    assert abs(evaluate_metric(samples, "Dmax") - stored.maximum_dose / 100 * prescription_gy) < 0.01 * prescription_gy
