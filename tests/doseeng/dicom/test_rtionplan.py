"""RT Ion Plans in and out: exact round trips, how exporters save space, and every refusal by name."""

import shutil
import subprocess
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from doseeng.dicom.rtionplan_out import ion_plan_to_dataset
from doseeng.dicom.rtplan import plan_from
from doseeng.dicom.writing import new_context, save
from doseeng.errors import DicomError, PlanError
from doseeng.plan import Plan, Prescription, ProtonBeam, RangeShifter

SOURCES_MM = (2000.0, 2560.0)


def f32(values: np.ndarray) -> np.ndarray:
    """Numbers that the FL of DICOM holds exactly."""
    return np.asarray(values, dtype=np.float32).astype(np.float64)


def make_plan() -> Plan:
    rng = np.random.default_rng(7)
    # Layers of 5, 4 and 1 spots: a single spot has a single weight, which pydicom reads as a bare number.
    energy = np.repeat([152.3, 140.05, 110.7], [5, 4, 1])
    beams = tuple(
        ProtonBeam(
            number=number,
            name=name,
            machine="gantry 2",
            isocenter_mm=(1.25, -20.5, 300.0),
            gantry_deg=gantry,
            couch_deg=couch,
            spot_uv_mm=f32(rng.uniform(-60, 60, (10, 2))),
            spot_energy_mev=energy,
            spot_mu=f32(rng.uniform(0.5, 20, 10)),
            fractions=30,
            snout_position_mm=421.5,
            range_shifter=shifter,
        )
        for number, name, gantry, couch, shifter in (
            (1, "RAO", 330.0, 0.0, None),
            (2, "LPO", 115.5, 345.0, RangeShifter("RS 4 cm", 41.25, 102.5)),
        )
    )
    return Plan(
        label="demo",
        uid="1.2.826.0.1.5",
        patient_position="HFS",
        beams=beams,
        prescriptions=(Prescription(2, 60.0), Prescription(5, 54.12)),
        structure_set_uid="1.2.826.0.1.9",
        intent="CURATIVE",
    )


@pytest.fixture
def dataset() -> Dataset:
    return ion_plan_to_dataset(make_plan(), new_context(), source_distance_mm=SOURCES_MM)


@pytest.fixture
def beam(dataset: Dataset) -> Dataset:
    """The second beam, which has a range shifter."""
    return dataset.IonBeamSequence[1]


def read(dataset: Dataset) -> Plan:
    return plan_from(dataset, "rn.dcm")[0]


def assert_same_spots(found: ProtonBeam, made: ProtonBeam) -> None:
    np.testing.assert_array_equal(found.spot_uv_mm, made.spot_uv_mm)
    np.testing.assert_array_equal(found.spot_energy_mev, made.spot_energy_mev)
    np.testing.assert_array_equal(found.spot_mu, made.spot_mu)


def test_a_plan_survives_the_round_trip_exactly(dataset: Dataset, tmp_path: Path) -> None:
    save(dataset, tmp_path / "rn.dcm")
    found, notices = plan_from(pydicom.dcmread(tmp_path / "rn.dcm"), "rn.dcm")
    made = make_plan()
    assert notices == ()
    assert found.modality == "proton"
    for name in ("label", "uid", "patient_position", "prescriptions", "structure_set_uid", "intent", "setup_beams"):
        assert getattr(found, name) == getattr(made, name)
    assert found.approval == "UNAPPROVED"
    for a, b in zip(found.proton_beams, made.proton_beams, strict=True):
        assert_same_spots(a, b)
        for name in (
            *("number", "name", "machine", "isocenter_mm", "gantry_deg", "couch_deg"),
            *("fractions", "fraction_group", "snout_position_mm", "range_shifter"),
        ):
            assert getattr(a, name) == getattr(b, name), name


def test_spots_of_arbitrary_doubles_come_back_to_float32() -> None:
    plan = make_plan()
    rng = np.random.default_rng(3)
    beams = tuple(replace(b, spot_mu=rng.uniform(0.01, 9, 10), spot_uv_mm=rng.normal(size=(10, 2))) for b in plan.beams)
    found = read(ion_plan_to_dataset(replace(plan, beams=beams), new_context(), source_distance_mm=SOURCES_MM))
    for a, b in zip(found.proton_beams, beams, strict=True):
        np.testing.assert_array_equal(a.spot_mu, f32(b.spot_mu))
        np.testing.assert_array_equal(a.spot_uv_mm, f32(b.spot_uv_mm))


def test_spots_without_meterset_are_dropped() -> None:
    plan = make_plan()
    mu = plan.proton_beams[0].spot_mu.copy()
    mu[[0, 9]] = 0.0  # the last layer has only this spot
    empty = (replace(plan.proton_beams[0], spot_mu=mu),)
    (found,) = read(
        ion_plan_to_dataset(replace(plan, beams=empty), new_context(), source_distance_mm=SOURCES_MM)
    ).proton_beams
    np.testing.assert_array_equal(found.spot_mu, mu[1:9])
    np.testing.assert_array_equal(found.spot_uv_mm, plan.proton_beams[0].spot_uv_mm[1:9])


def test_meterset_is_weight_over_final_weight_times_beam_meterset(dataset: Dataset) -> None:
    total = make_plan().proton_beams[0].spot_mu.sum()
    dataset.FractionGroupSequence[0].ReferencedBeamSequence[0].BeamMeterset = f"{3 * total:.6f}"
    found = read(dataset).proton_beams[0]
    np.testing.assert_allclose(found.spot_mu, 3 * make_plan().proton_beams[0].spot_mu, rtol=1e-7)


def test_control_points_may_leave_out_what_does_not_change(dataset: Dataset, beam: Dataset) -> None:
    for index, control_point in enumerate(beam.IonControlPointSequence):
        if index % 2:
            del control_point.NominalBeamEnergy
            del control_point.ScanSpotPositionMap
            del control_point.NumberOfScanSpotPositions
            del control_point.ScanSpotMetersetWeights
        elif index:
            # Exporters that repeat geometry must not trip the check for changes.
            control_point.GantryAngle = "115.5"
            control_point.SnoutPosition = 421.5
    assert_same_spots(read(dataset).proton_beams[1], make_plan().proton_beams[1])


def test_energy_is_carried_over_between_layers(dataset: Dataset, beam: Dataset) -> None:
    for control_point in beam.IonControlPointSequence[1:]:
        del control_point.NominalBeamEnergy
    np.testing.assert_array_equal(read(dataset).proton_beams[1].spot_energy_mev, 152.3)


def test_layers_repainted_at_the_same_energy_stay_in_delivery_order() -> None:
    plan = make_plan()
    energy = np.repeat([150.0, 140.0, 150.0], [4, 2, 4])
    beams = (replace(plan.proton_beams[0], spot_energy_mev=energy),)
    dataset = ion_plan_to_dataset(replace(plan, beams=beams), new_context(), source_distance_mm=SOURCES_MM)
    assert len(dataset.IonBeamSequence[0].IonControlPointSequence) == 6
    assert_same_spots(read(dataset).proton_beams[0], beams[0])


@pytest.mark.parametrize("mode", ["STATIONARY", "LEAP"])
def test_specified_modulated_scanning_of_spots_is_read(dataset: Dataset, beam: Dataset, mode: str) -> None:
    beam.ScanMode, beam.ModulatedScanModeType = "MODULATED_SPEC", mode
    assert len(read(dataset).beams) == 2


def test_setup_beams_are_listed_and_not_read(dataset: Dataset, beam: Dataset) -> None:
    beam.TreatmentDeliveryType = "SETUP"
    beam.IonControlPointSequence = Sequence()
    del dataset.FractionGroupSequence[0].ReferencedBeamSequence[1].BeamMeterset
    plan, notices = plan_from(dataset, "rn.dcm")
    assert [b.name for b in plan.beams] == ["RAO"]
    assert (plan.setup_beams, notices) == (("LPO",), ())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (
            lambda d: d.FractionGroupSequence[0].ReferencedBeamSequence[1].__delattr__("BeamMeterset"),
            "without-meterset",
        ),
        (lambda d: d.FractionGroupSequence[0].ReferencedBeamSequence.pop(), "not-in-fraction-group"),
        (lambda d: setattr(d.IonBeamSequence[1], "TreatmentDeliveryType", "TRMT_PORTFILM"), "imaging-dose-left-out"),
    ],
)
def test_beams_that_only_look_like_treatment_are_noticed(dataset: Dataset, change: Callable, code: str) -> None:
    change(dataset)
    plan, notices = plan_from(dataset, "rn.dcm")
    assert plan.setup_beams == ("LPO",)
    assert [(code in n.code, n.where) for n in notices] == [(True, "LPO")]


def test_a_plan_of_setup_beams_only_is_refused(dataset: Dataset) -> None:
    for beam in dataset.IonBeamSequence:
        beam.TreatmentDeliveryType = "SETUP"
    with pytest.raises(PlanError, match="no treatment beam with a meterset; beams found: 'RAO', 'LPO'"):
        read(dataset)


def test_beams_of_several_fraction_groups() -> None:
    plan = make_plan()
    boost = replace(plan.proton_beams[1], fractions=5, fraction_group=2)
    plan = replace(plan, beams=(plan.proton_beams[0], boost))
    dataset = ion_plan_to_dataset(plan, new_context(), source_distance_mm=SOURCES_MM)
    assert len(dataset.FractionGroupSequence) == 2
    assert [(b.name, b.fraction_group, b.fractions) for b in read(dataset).beams] == [("RAO", 1, 30), ("LPO", 2, 5)]


def test_range_shifter_that_is_out_is_not_in_the_beam(dataset: Dataset, beam: Dataset) -> None:
    beam.IonControlPointSequence[0].RangeShifterSettingsSequence[0].RangeShifterSetting = "OUT"
    assert read(dataset).proton_beams[1].range_shifter is None


def set_of(sequence: str, **values: object) -> Callable[[Dataset], None]:
    """A change that gives the beam a sequence of one item."""

    def change(beam: Dataset) -> None:
        setattr(beam, sequence, Sequence([Dataset()]))
        for keyword, value in values.items():
            setattr(getattr(beam, sequence)[0], keyword, value)

    return change


def set_beam(**values: object) -> Callable[[Dataset], None]:
    return lambda beam: [setattr(beam, k, v) for k, v in values.items()] and None


def set_cp(index: int, **values: object) -> Callable[[Dataset], None]:
    return lambda beam: [setattr(beam.IonControlPointSequence[index], k, v) for k, v in values.items()] and None


def set_shifter(**values: object) -> Callable[[Dataset], None]:
    def change(beam: Dataset) -> None:
        for keyword, value in values.items():
            setattr(beam.IonControlPointSequence[0].RangeShifterSettingsSequence[0], keyword, value)

    return change


def second_shifter(beam: Dataset) -> None:
    for sequence in (beam.RangeShifterSequence, beam.IonControlPointSequence[0].RangeShifterSettingsSequence):
        sequence.append(deepcopy(sequence[0]))
    beam.RangeShifterSequence[1].RangeShifterNumber = 2
    beam.RangeShifterSequence[1].RangeShifterID = "RS 7 cm"
    beam.IonControlPointSequence[0].RangeShifterSettingsSequence[1].ReferencedRangeShifterNumber = 2


def moving_shifter(beam: Dataset) -> None:
    setting = deepcopy(beam.IonControlPointSequence[0].RangeShifterSettingsSequence[0])
    setting.IsocenterToRangeShifterDistance = 90.0
    beam.IonControlPointSequence[2].RangeShifterSettingsSequence = Sequence([setting])


def drop_cp(keyword: str) -> Callable[[Dataset], None]:
    return lambda beam: beam.IonControlPointSequence[0].__delattr__(keyword)


REFUSALS: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "carbon": (set_beam(RadiationType="ION"), "radiation type 'ION'; only PROTON"),
    "double scattering": (set_beam(ScanMode="NONE"), "scan mode is NONE"),
    "uniform scanning": (set_beam(ScanMode="UNIFORM"), "scan mode is UNIFORM"),
    "line scanning": (set_beam(ScanMode="MODULATED_SPEC", ModulatedScanModeType="LINEAR"), "MODULATED_SPEC LINEAR"),
    "no scan mode": (set_beam(ScanMode=""), "scan mode is not stated"),
    "chair": (set_beam(PatientSupportType="CHAIR"), "patient support is 'CHAIR'"),
    "dosimeter unit": (set_beam(PrimaryDosimeterUnit="NP"), "PrimaryDosimeterUnit is 'NP'; only monitor units"),
    "aperture": (set_of("IonBlockSequence", BlockName="AP1"), "aperture or block 'AP1'"),
    "compensator": (set_of("IonRangeCompensatorSequence", CompensatorID="C1"), "range compensator 'C1'"),
    "ridge filter": (set_of("RangeModulatorSequence", RangeModulatorID="RF"), "ridge filter 'RF'"),
    "applicator": (set_of("ApplicatorSequence", ApplicatorID="A"), "applicator 'A'"),
    "wedge": (set_of("IonWedgeSequence", WedgeID="W", WedgeType="STANDARD"), r"wedge 'W' \(STANDARD\)"),
    "scatterer": (
        set_of("LateralSpreadingDeviceSequence", LateralSpreadingDeviceID="S1", LateralSpreadingDeviceType="SCATTERER"),
        "scatterer 'S1'",
    ),
    "mlc": (set_of("IonBeamLimitingDeviceSequence", RTBeamLimitingDeviceType="MLCX"), "multileaf collimator"),
    "gantry moves": (set_cp(2, GantryAngle="120"), "GantryAngle changes between control points"),
    "couch moves": (set_cp(2, PatientSupportAngle="0"), "PatientSupportAngle changes"),
    "isocentre moves": (set_cp(2, IsocenterPosition=["0", "0", "0"]), "IsocenterPosition changes"),
    "snout moves": (set_cp(2, SnoutPosition=300.0), "SnoutPosition changes"),
    "no isocentre": (drop_cp("IsocenterPosition"), "control point 0 has IsocenterPosition"),
    "no gantry angle": (drop_cp("GantryAngle"), "control point 0 has GantryAngle"),
    "no couch angle": (drop_cp("PatientSupportAngle"), "control point 0 has PatientSupportAngle"),
    "no energy": (drop_cp("NominalBeamEnergy"), "control point 0 has NominalBeamEnergy"),
    "pitch": (set_cp(0, TableTopPitchAngle=2.0), "table top pitch of 2 degrees"),
    "roll": (set_cp(0, TableTopRollAngle=358.0), "table top roll of 358 degrees"),
    "gantry pitch": (set_cp(0, GantryPitchAngle=1.0), "gantry pitch of 1 degrees"),
    "NaN weight": (
        set_cp(2, ScanSpotMetersetWeights=[1.0, 2.0, float("nan"), 1.0]),
        "control point 2: spot 2 has a meterset weight of nan",
    ),
    "negative weight": (set_cp(2, ScanSpotMetersetWeights=[1.0, -2.0, 1.0, 1.0]), "spot 1 has a meterset weight of -2"),
    "NaN position": (set_cp(4, ScanSpotPositionMap=[float("nan"), 0.0]), "spot 9 has a position of NaN"),
    "zero energy": (set_cp(2, NominalBeamEnergy="0"), "has an energy of 0 MeV"),
    "too few positions": (set_cp(2, ScanSpotPositionMap=[1.0, 2.0]), "expected x and y of 4 spots"),
    "too few weights": (set_cp(2, ScanSpotMetersetWeights=[1.0, 2.0]), "4 spot positions but 2 spot weights"),
    "weights contradict": (set_cp(2, ScanSpotMetersetWeights=[9.0] * 4), "spot weights sum to 36"),
    "cumulative weight falls": (set_cp(3, CumulativeMetersetWeight="0"), "cumulative meterset weight"),
    "final weight differs": (set_beam(FinalCumulativeMetersetWeight="1000"), "FinalCumulativeMetersetWeight = 1000"),
    "no final weight": (set_beam(FinalCumulativeMetersetWeight=None), "FinalCumulativeMetersetWeight is None"),
    "one control point": (lambda b: b.IonControlPointSequence.__delitem__(slice(1, None)), "expected at least two"),
    "two range shifters": (second_shifter, r"2 range shifters in the beam \('RS 4 cm', 'RS 7 cm'\)"),
    "range shifter moves": (moving_shifter, "changes range shifter 1 between control points"),
    "range shifter unset": (drop_cp("RangeShifterSettingsSequence"), "range shifter 'RS 4 cm': its setting is ''"),
    "analog range shifter": (set_shifter(RangeShifterSetting="37.5"), "its setting is '37.5'; expected IN or OUT"),
    "no WET": (set_shifter(RangeShifterWaterEquivalentThickness=None), r"\(300A,0366\) in mm: enter it"),
    "no distance": (set_shifter(IsocenterToRangeShifterDistance=None), r"\(300A,0364\), the distance"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_computed_is_refused_by_name(dataset: Dataset, beam: Dataset, name: str) -> None:
    change, message = REFUSALS[name]
    change(beam)
    with pytest.raises(PlanError, match=message) as error:
        read(dataset)
    assert "beam 2 'LPO'" in str(error.value)


@pytest.mark.parametrize("meterset", ["-1", "nan"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
def test_an_impossible_meterset_is_refused(dataset: Dataset, meterset: str) -> None:
    dataset.FractionGroupSequence[0].ReferencedBeamSequence[1].BeamMeterset = meterset
    with pytest.raises(PlanError, match=r"beam 2 'LPO': BeamMeterset is"):
        read(dataset)


def test_a_scatterer_that_is_out_does_no_harm(dataset: Dataset, beam: Dataset) -> None:
    set_of("LateralSpreadingDeviceSequence", LateralSpreadingDeviceType="SCATTERER", LateralSpreadingDeviceNumber=1)(
        beam
    )
    setting = Dataset()
    setting.ReferencedLateralSpreadingDeviceNumber = 1
    setting.LateralSpreadingDeviceSetting = "OUT"
    beam.IonControlPointSequence[0].LateralSpreadingDeviceSettingsSequence = Sequence([setting])
    assert len(read(dataset).beams) == 2


def test_fraction_groups_that_make_no_sense_are_refused(dataset: Dataset) -> None:
    group = dataset.FractionGroupSequence[0]
    group.NumberOfFractionsPlanned = None
    with pytest.raises(PlanError, match="plans None fractions"):
        read(dataset)
    group.NumberOfFractionsPlanned = 30
    group.ReferencedBeamSequence[0].ReferencedBeamNumber = 8
    with pytest.raises(PlanError, match="refers to beam 8"):
        read(dataset)
    group.NumberOfBrachyApplicationSetups = 1
    with pytest.raises(PlanError, match="brachytherapy"):
        read(dataset)
    del dataset.FractionGroupSequence
    with pytest.raises(PlanError, match="no FractionGroupSequence"):
        read(dataset)


def test_duplicated_beam_numbers_are_refused(dataset: Dataset, beam: Dataset) -> None:
    beam.BeamNumber = 1
    with pytest.raises(PlanError, match="beam number 1 is given twice"):
        read(dataset)


def test_patient_positions_that_are_missing_mixed_or_unknown_are_refused(dataset: Dataset, beam: Dataset) -> None:
    dataset.PatientSetupSequence[0].PatientPosition = "SITTING"
    with pytest.raises(PlanError, match="'SITTING' is not supported"):
        read(dataset)
    dataset.PatientSetupSequence[0].PatientPosition = "HFP"
    assert read(dataset).patient_position == "HFP"
    other = deepcopy(dataset.PatientSetupSequence[0])
    other.PatientSetupNumber, other.PatientPosition = 2, "HFS"
    dataset.PatientSetupSequence.append(other)
    assert read(dataset).patient_position == "HFP"
    beam.ReferencedPatientSetupNumber = 2
    with pytest.raises(PlanError, match=r"several positions: HFP \(beam 'RAO'\), HFS \(beam 'LPO'\)"):
        read(dataset)
    beam.ReferencedPatientSetupNumber = 3
    with pytest.raises(PlanError, match=r"'LPO' has no patient position.*\(0018,5100\)"):
        read(dataset)
    del dataset.PatientSetupSequence
    with pytest.raises(PlanError, match="no patient position"):
        read(dataset)


def test_prescriptions_without_roi_and_no_prescription_are_noticed(dataset: Dataset) -> None:
    del dataset.DoseReferenceSequence[0].ReferencedROINumber
    plan, notices = plan_from(dataset, "rn.dcm")
    assert plan.prescriptions == (Prescription(5, 54.12),)
    assert [n.code for n in notices] == ["prescription-without-roi"]
    del dataset.DoseReferenceSequence
    plan, notices = plan_from(dataset, "rn.dcm")
    assert plan.prescriptions == ()
    assert [n.code for n in notices] == ["no-prescription"]


def test_bolus_and_spots_behind_jaws_are_noticed(dataset: Dataset, beam: Dataset) -> None:
    set_of("ReferencedBolusSequence", ReferencedROINumber=4, BolusID="flab")(beam)
    jaw = Dataset()
    jaw.RTBeamLimitingDeviceType = "X"
    jaw.LeafJawPositions = ["-10", "60"]
    beam.IonControlPointSequence[0].BeamLimitingDevicePositionSequence = Sequence([jaw])
    behind = int(np.count_nonzero(make_plan().proton_beams[1].spot_uv_mm[:, 0] < -10))
    assert behind > 0
    notices = plan_from(dataset, "rn.dcm")[1]
    assert [(n.code, n.where) for n in notices] == [("bolus", "LPO"), ("spot-behind-jaw", "LPO")]
    assert "flab" in notices[0].message
    assert notices[1].message.startswith(f"{behind} spots")


def test_another_object_is_refused(dataset: Dataset) -> None:
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    with pytest.raises(DicomError, match="expected an RT Plan or RT Ion Plan"):
        read(dataset)


def test_plans_that_dicom_cannot_hold_are_not_written() -> None:
    plan = make_plan()
    first, second = plan.proton_beams
    with pytest.raises(PlanError, match=r"beam numbers \[1, 1\] repeat"):
        write(replace(plan, beams=(first, replace(second, number=1))))
    with pytest.raises(PlanError, match=r"fraction group 1 are given in \[5, 30\] fractions"):
        write(replace(plan, beams=(first, replace(second, fractions=5))))


def write(plan: Plan) -> Dataset:
    return ion_plan_to_dataset(plan, new_context(), source_distance_mm=SOURCES_MM)


def test_dcmtk_and_dicom3tools_accept_what_is_written(dataset: Dataset, tmp_path: Path) -> None:
    if shutil.which("dcmdump") is None or shutil.which("dciodvfy") is None:
        pytest.skip("dcmtk and dicom3tools are not installed")
    save(dataset, tmp_path / "rn.dcm")
    assert subprocess.run(["dcmdump", "-q", tmp_path / "rn.dcm"], capture_output=True).returncode == 0
    verified = subprocess.run(["dciodvfy", tmp_path / "rn.dcm"], capture_output=True, text=True)
    lines = (verified.stderr + verified.stdout).splitlines()
    # dicom3tools asks for ModulatedScanModeType with MODULATED too; the standard only with MODULATED_SPEC.
    assert [line for line in lines if "Error" in line and "ModulatedScanModeType" not in line] == []


def test_a_raystation_proton_plan(unzipped: Callable[[str], Path]) -> None:
    path = unzipped("dcpt_proton_slab") / "plan03" / "ramped_2Gy_ver2_full.dcm"
    plan, notices = plan_from(pydicom.dcmread(path), path.name)
    assert (plan.label, plan.patient_position, plan.approval) == ("Slope101010E_o_1", "HFS", "APPROVED")
    assert [n.code for n in notices] == ["no-prescription"]
    assert [(b.name, b.machine, b.gantry_deg) for b in plan.proton_beams] == [("b1", "TR3", 90.0), ("b2", "TR3", 270.0)]
    for beam in plan.proton_beams:
        assert len(beam.spot_mu) == 9218
        assert beam.spot_mu.sum() == pytest.approx(39294.15, rel=1e-6)
        assert len(np.unique(beam.spot_energy_mev)) == 22
        assert (beam.spot_energy_mev.min(), beam.spot_energy_mev.max()) == (83.5, 149.4)
        # First layer: 448 spots whose weights the file states as cumulative weight 1333.401.
        layer = beam.spot_energy_mev == 149.4
        assert np.count_nonzero(layer) == 448
        assert beam.spot_mu[layer].sum() == pytest.approx(1333.401, rel=1e-6)
        np.testing.assert_allclose(beam.spot_uv_mm[0], (-53.241001, 54.521999), atol=1e-6)
        assert (beam.isocenter_mm, beam.couch_deg, beam.fractions) == ((0.0, 0.0, 0.0), 0.0, 1)
        assert (beam.snout_position_mm, beam.range_shifter) == (421.0, None)
    again = read(write(plan))
    for a, b in zip(again.proton_beams, plan.proton_beams, strict=True):
        np.testing.assert_array_equal(a.spot_uv_mm, b.spot_uv_mm)
        np.testing.assert_allclose(a.spot_mu, b.spot_mu, rtol=1e-7)
