"""Photon RT Plans in: control points, arcs, jaws and leaves, refusals by name, and plans of four planning systems."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RTPlanStorage

from doseeng.dicom.rtplan import plan_from
from doseeng.dicom.writing import new_context, new_dataset
from doseeng.errors import PlanError
from doseeng.plan import Mlc, PhotonBeam, Plan, Prescription, ProtonBeam

LEAVES = [["-5", "-6", "-7", "5", "6", "7"], ["-4", "-5", "-6", "6", "7", "8"]]


def make(**values: object) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, Sequence(value) if keyword.endswith("Sequence") else value)
    return made


def position(kind: str, positions: list[str]) -> Dataset:
    return make(RTBeamLimitingDeviceType=kind, LeafJawPositions=positions)


def make_beam(number: int, name: str) -> Dataset:
    """An arc of three control points through gantry 0 with a 3-pair MLC; jaws and leaves repeat only on change."""
    devices = [
        make(RTBeamLimitingDeviceType="ASYMX", NumberOfLeafJawPairs=1),
        make(RTBeamLimitingDeviceType="ASYMY", NumberOfLeafJawPairs=1),
        make(RTBeamLimitingDeviceType="MLCX", NumberOfLeafJawPairs=3, LeafPositionBoundaries=["-15", "-5", "5", "15"]),
    ]
    first = make(
        ControlPointIndex=0,
        NominalBeamEnergy="6",
        BeamLimitingDevicePositionSequence=[
            position("ASYMX", ["-20", "30"]),
            position("ASYMY", ["-15", "15"]),
            position("MLCX", LEAVES[0]),
        ],
        GantryAngle="350",
        GantryRotationDirection="CW",
        BeamLimitingDeviceAngle="359",
        PatientSupportAngle="0",
        IsocenterPosition=["1", "2", "3"],
        CumulativeMetersetWeight="0",
    )
    second = make(
        ControlPointIndex=1,
        GantryAngle="2",
        BeamLimitingDeviceAngle="1",
        BeamLimitingDevicePositionSequence=[position("MLCX", LEAVES[1])],
        CumulativeMetersetWeight="0.25",
    )
    last = make(ControlPointIndex=2, GantryAngle="20", GantryRotationDirection="NONE", CumulativeMetersetWeight="1")
    return make(
        BeamNumber=number,
        BeamName=name,
        BeamType="DYNAMIC",
        RadiationType="PHOTON",
        TreatmentDeliveryType="TREATMENT",
        TreatmentMachineName="linac 1",
        PrimaryDosimeterUnit="MU",
        SourceAxisDistance="1000",
        PrimaryFluenceModeSequence=[make(FluenceMode="NON_STANDARD", FluenceModeID="FFF")],
        BeamLimitingDeviceSequence=devices,
        FinalCumulativeMetersetWeight="1",
        NumberOfControlPoints=3,
        ReferencedPatientSetupNumber=1,
        ControlPointSequence=[first, second, last],
    )


@pytest.fixture
def dataset() -> Dataset:
    made = new_dataset(RTPlanStorage, new_context(), "RTPLAN")
    made.RTPlanLabel = "arc"
    made.DoseReferenceSequence = Sequence(
        [make(DoseReferenceType="TARGET", ReferencedROINumber=4, TargetPrescriptionDose="50")]
    )
    references = [make(ReferencedBeamNumber=1, BeamMeterset="200"), make(ReferencedBeamNumber=2, BeamMeterset="100.5")]
    made.FractionGroupSequence = Sequence(
        [make(FractionGroupNumber=1, NumberOfFractionsPlanned=25, ReferencedBeamSequence=references)]
    )
    made.PatientSetupSequence = Sequence([make(PatientSetupNumber=1, PatientPosition="HFS")])
    made.BeamSequence = Sequence([make_beam(1, "arc 1"), make_beam(2, "arc 2")])
    return made


@pytest.fixture
def beam(dataset: Dataset) -> Dataset:
    return dataset.BeamSequence[1]


def read_beam(dataset: Dataset) -> PhotonBeam:
    return plan_from(dataset, "rp.dcm")[0].photon_beams[1]


def test_control_points_are_read_and_carried_over(dataset: Dataset) -> None:
    plan, notices = plan_from(dataset, "rp.dcm")
    found = plan.photon_beams[1]
    assert (plan.modality, plan.prescriptions, notices) == ("photon", (Prescription(4, 50.0),), ())
    assert (found.energy_mv, found.fluence_mode, found.technique, found.machine) == (6.0, "FFF", "DYNAMIC", "linac 1")
    assert (found.meterset_mu, found.fractions, found.source_axis_mm) == (100.5, 25, 1000.0)
    np.testing.assert_array_equal(found.meterset_fraction, [0, 0.25, 1])
    np.testing.assert_array_equal(found.gantry_deg, [350, 362, 380])
    np.testing.assert_array_equal(found.collimator_deg, [359, 361, 361])
    np.testing.assert_array_equal(found.couch_deg, [0, 0, 0])
    np.testing.assert_array_equal(found.isocenter_mm, np.tile([1, 2, 3], (3, 1)))
    np.testing.assert_array_equal(found.jaw_x_mm, np.tile([-20, 30], (3, 1)))
    np.testing.assert_array_equal(found.jaw_y_mm, np.tile([-15, 15], (3, 1)))
    assert found.mlc is not None
    assert found.mlc.axis == "X"
    np.testing.assert_array_equal(found.mlc.leaf_boundary_mm, [-15, -5, 5, 15])
    expected = np.array([LEAVES[0], LEAVES[1], LEAVES[1]], dtype=float).reshape(3, 2, 3)
    np.testing.assert_array_equal(found.mlc.leaf_mm, expected)


def test_a_counter_clockwise_arc_goes_down(dataset: Dataset, beam: Dataset) -> None:
    for control_point, angle in zip(beam.ControlPointSequence, ("20", "2", "350"), strict=True):
        control_point.GantryAngle = angle
    beam.ControlPointSequence[0].GantryRotationDirection = "CC"
    np.testing.assert_array_equal(read_beam(dataset).gantry_deg, [20, 2, -10])


def test_a_full_arc_between_two_control_points_keeps_its_length(dataset: Dataset, beam: Dataset) -> None:
    for control_point, angle in zip(beam.ControlPointSequence, ("181", "0", "179"), strict=True):
        control_point.GantryAngle = angle
    np.testing.assert_array_equal(read_beam(dataset).gantry_deg, [181, 360, 539])


def test_a_static_beam_without_mlc_and_with_one_jaw(dataset: Dataset, beam: Dataset) -> None:
    beam.BeamLimitingDeviceSequence = Sequence([make(RTBeamLimitingDeviceType="Y", NumberOfLeafJawPairs=1)])
    first, _, last = beam.ControlPointSequence
    first.BeamLimitingDevicePositionSequence = Sequence([position("Y", ["-50", "50"])])
    del last.GantryAngle
    beam.ControlPointSequence = Sequence([first, last])
    del beam.PrimaryFluenceModeSequence
    found = read_beam(dataset)
    assert (found.mlc, found.fluence_mode) == (None, "")
    np.testing.assert_array_equal(found.gantry_deg, [350, 350])
    np.testing.assert_array_equal(found.jaw_y_mm, [[-50, 50], [-50, 50]])
    np.testing.assert_array_equal(found.jaw_x_mm, [[-np.inf, np.inf]] * 2)


def test_meterset_weights_of_any_scale(dataset: Dataset, beam: Dataset) -> None:
    for control_point, weight in zip(beam.ControlPointSequence, ("0", "50", "200"), strict=True):
        control_point.CumulativeMetersetWeight = weight
    beam.FinalCumulativeMetersetWeight = "200"
    np.testing.assert_array_equal(read_beam(dataset).meterset_fraction, [0, 0.25, 1])


def test_a_wedge_that_is_out_does_no_harm(dataset: Dataset, beam: Dataset) -> None:
    beam.WedgeSequence = Sequence([make(WedgeNumber=1, WedgeID="MW", WedgeType="MOTORIZED")])
    beam.ControlPointSequence[0].WedgePositionSequence = Sequence([make(ReferencedWedgeNumber=1, WedgePosition="OUT")])
    assert read_beam(dataset).name == "arc 2"


def test_boluses_are_kept_and_noticed(dataset: Dataset, beam: Dataset) -> None:
    beam.ReferencedBolusSequence = Sequence([make(ReferencedROINumber=9)])
    assert read_beam(dataset).bolus == ("ROI 9",)
    assert [(n.code, n.where) for n in plan_from(dataset, "rp.dcm")[1]] == [("bolus", "arc 2")]


def on_first(**values: object) -> Callable[[Dataset], None]:
    return lambda beam: [setattr(beam.ControlPointSequence[0], k, v) for k, v in values.items()] and None


def add_device(kind: str, pairs: int) -> Callable[[Dataset], None]:
    device = make(RTBeamLimitingDeviceType=kind, NumberOfLeafJawPairs=pairs)
    return lambda beam: beam.BeamLimitingDeviceSequence.append(device)


REFUSALS: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "electrons": (lambda b: setattr(b, "RadiationType", "ELECTRON"), "radiation type 'ELECTRON'; only PHOTON"),
    "block": (lambda b: b.update(make(BlockSequence=[make(BlockName="B1")])), "block 'B1'"),
    "compensator": (lambda b: b.update(make(CompensatorSequence=[make(CompensatorID="C")])), "compensator 'C'"),
    "applicator": (lambda b: b.update(make(ApplicatorSequence=[make(ApplicatorID="cone")])), "applicator 'cone'"),
    "wedge": (
        lambda b: b.update(make(WedgeSequence=[make(WedgeNumber=1, WedgeID="W60", WedgeType="DYNAMIC")])),
        r"wedge 'W60' \(DYNAMIC\)",
    ),
    "energy changes": (lambda b: setattr(b.ControlPointSequence[1], "NominalBeamEnergy", "10"), "NominalBeamEnergy"),
    "gantry without direction": (on_first(GantryRotationDirection="NONE"), "moves from 350 to 2 degrees"),
    "table pitch": (on_first(TableTopPitchAngle=3.0), "table top pitch of 3 degrees"),
    "eccentric table": (on_first(TableTopEccentricAngle="5"), "table top eccentric angle of 5"),
    "no isocentre": (lambda b: b.ControlPointSequence[0].__delattr__("IsocenterPosition"), "IsocenterPosition"),
    "two jaws on one axis": (add_device("X", 1), "'X' with 1 pair"),
    "two MLCs": (add_device("MLCY", 60), "'MLCY' with 60 pair"),
    "unknown device": (add_device("IRIS", 1), "'IRIS' with 1 pair"),
    "leaf count": (
        lambda b: setattr(b.BeamLimitingDeviceSequence[2], "LeafPositionBoundaries", ["-15", "15"]),
        "MLCX states 2 leaf boundaries for 3 leaf pairs",
    ),
    "leaf positions": (
        lambda b: setattr(b.ControlPointSequence[1].BeamLimitingDevicePositionSequence[0], "LeafJawPositions", ["1"]),
        "MLCX: control point 1 has LeafJawPositions",
    ),
    "falling meterset": (
        lambda b: setattr(b.ControlPointSequence[1], "CumulativeMetersetWeight", "1.5"),
        "cumulative meterset weights",
    ),
    "minutes": (lambda b: setattr(b, "PrimaryDosimeterUnit", "MINUTE"), "PrimaryDosimeterUnit is 'MINUTE'"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_computed_is_refused_by_name(dataset: Dataset, beam: Dataset, name: str) -> None:
    change, message = REFUSALS[name]
    change(beam)
    with pytest.raises(PlanError, match=message) as error:
        read_beam(dataset)
    assert "beam 2 'arc 2'" in str(error.value)


def test_a_photon_plan_gives_no_proton_beams_and_mixtures_are_refused(dataset: Dataset) -> None:
    plan = plan_from(dataset, "rp.dcm")[0]
    with pytest.raises(PlanError, match="has photon beams; a proton plan was expected"):
        _ = plan.proton_beams
    spot = np.ones(1)
    proton = ProtonBeam(3, "p", "m", (0, 0, 0), 0, 0, np.zeros((1, 2)), spot * 100, spot)
    with pytest.raises(PlanError, match="mixes proton and photon beams"):
        replace(plan, beams=(*plan.beams, proton))
    with pytest.raises(PlanError, match="has proton beams; a photon plan was expected"):
        _ = Plan("p", "1.2", "HFS", (proton,)).photon_beams


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meterset_fraction": [0, 0.5, 0.9]}, "rise from 0 to 1"),
        ({"gantry_deg": [0, 1]}, "gantry_deg has shape"),
        ({"jaw_x_mm": [[np.nan, 1]] * 3}, "jaw_x_mm holds NaN"),
        ({"meterset_mu": -1.0}, "meterset of -1 MU"),
        ({"mlc": Mlc("X", np.array([-1.0, 1.0]), np.zeros((2, 2, 1)))}, "leaf positions for 2 control points"),
        ({"energy_mv": 0.0}, "energy 0 MV"),
        ({"fractions": 0}, "0 fractions"),
    ],
)
def test_photon_beams_that_contradict_themselves_are_refused(dataset: Dataset, change: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        replace(read_beam(dataset), **change)


def read(path: Path) -> tuple[Plan, tuple]:
    return plan_from(pydicom.dcmread(path), path.name)


def test_a_raystation_vmat_plan(unzipped: Callable[[str], Path]) -> None:
    (path,) = (unzipped("alderson_vmat") / "RTPLAN").glob("*.dcm")
    plan, notices = read(path)
    assert (plan.prescriptions, notices) == ((Prescription(3, 60.0),), ())
    assert plan.setup_beams == ("SB1_1", "SB1_2", "SB1_3")
    (arc,) = plan.photon_beams
    assert (arc.energy_mv, arc.fluence_mode, arc.meterset_mu, arc.fractions) == (10.0, "STANDARD", 390.0, 20)
    # 76 control points clockwise from 210 to 150 degrees, 4 degrees apart.
    np.testing.assert_array_equal(arc.gantry_deg, np.arange(210, 511, 4))
    assert arc.mlc is not None
    assert arc.mlc.leaf_mm.shape == (76, 2, 80)
    np.testing.assert_array_equal(arc.mlc.leaf_boundary_mm, np.arange(-200, 201, 5))
    assert np.all(arc.mlc.leaf_mm[:, 0] <= arc.mlc.leaf_mm[:, 1])
    np.testing.assert_array_equal(arc.isocenter_mm[-1], (5.149291, -174.8227, -608.7299))


def test_an_eclipse_plan_with_an_imaging_field(unzipped: Callable[[str], Path]) -> None:
    (path,) = (unzipped("eclipse_prostate_dvh") / "DICOM").glob("RP*.dcm")
    plan, notices = read(path)
    assert [b.gantry_deg[0] for b in plan.photon_beams] == [0, 270, 180, 90]
    assert {b.energy_mv for b in plan.photon_beams} == {15.0}
    assert plan.setup_beams == ("CBCT",)
    assert [n.code for n in notices] == ["beam-without-meterset", "prescription-without-roi"]
    np.testing.assert_array_equal(plan.photon_beams[0].jaw_x_mm[1], (-70, 65))


def test_a_pinnacle_plan_of_two_open_fields(unzipped: Callable[[str], Path]) -> None:
    plan, _ = read(unzipped("pinnacle_two_fields") / "1.3.46.670589.13.997910418.20181018190715.112493.dcm")
    for beam, gantry in zip(plan.photon_beams, (0.0, 270.0), strict=True):
        assert (beam.energy_mv, beam.meterset_mu, beam.technique, beam.mlc) == (6.0, 118.0, "STATIC", None)
        np.testing.assert_array_equal(beam.gantry_deg, gantry)
        np.testing.assert_array_equal(beam.jaw_x_mm, [[-50, 50]] * 2)
        np.testing.assert_array_equal(beam.jaw_y_mm, [[-50, 50]] * 2)


def test_a_sliding_window_plan(unzipped: Callable[[str], Path]) -> None:
    plan, _ = read(unzipped("breast_imrt_embedded_dvh") / "rtplan.dcm")
    assert [(len(b.gantry_deg), b.meterset_mu, b.energy_mv) for b in plan.photon_beams] == [
        (92, 97.0, 10.0),
        (94, 87.0, 6.0),
        (103, 89.0, 6.0),
        (95, 94.0, 10.0),
    ]
    for beam in plan.photon_beams:
        assert beam.mlc is not None
        # Both banks of a sliding window start on one side and end on the other, and no leaf ever turns back.
        steps = np.diff(beam.mlc.leaf_mm, axis=0)
        assert np.all(steps >= 0) or np.all(steps <= 0)
