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
from doseeng.errors import DicomError, PlanError
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
    (mlc,) = found.mlcs
    assert mlc.axis == "X"
    np.testing.assert_array_equal(mlc.leaf_boundary_mm, [-15, -5, 5, 15])
    expected = np.array([LEAVES[0], LEAVES[1], LEAVES[1]], dtype=float).reshape(3, 2, 3)
    np.testing.assert_array_equal(mlc.leaf_mm, expected)


def test_a_counter_clockwise_arc_goes_down(dataset: Dataset, beam: Dataset) -> None:
    for control_point, angle in zip(beam.ControlPointSequence, ("20", "2", "350"), strict=True):
        control_point.GantryAngle = angle
    beam.ControlPointSequence[0].GantryRotationDirection = "CC"
    np.testing.assert_array_equal(read_beam(dataset).gantry_deg, [20, 2, -10])


def test_a_full_arc_between_two_control_points_keeps_its_length(dataset: Dataset, beam: Dataset) -> None:
    for control_point, angle in zip(beam.ControlPointSequence, ("181", "0", "179"), strict=True):
        control_point.GantryAngle = angle
    np.testing.assert_array_equal(read_beam(dataset).gantry_deg, [181, 360, 539])


def make_static(beam: Dataset) -> None:
    """The first control point held until the end."""
    first, _, last = beam.ControlPointSequence
    del last.GantryAngle
    beam.ControlPointSequence = Sequence([first, last])
    beam.BeamType = "STATIC"


def test_a_static_beam_with_leaves_and_one_jaw(dataset: Dataset, beam: Dataset) -> None:
    make_static(beam)
    leaves = beam.BeamLimitingDeviceSequence[2]
    beam.BeamLimitingDeviceSequence = Sequence([make(RTBeamLimitingDeviceType="Y", NumberOfLeafJawPairs=1), leaves])
    first = beam.ControlPointSequence[0]
    first.BeamLimitingDevicePositionSequence = Sequence([position("Y", ["-50", "50"]), position("MLCX", LEAVES[0])])
    del beam.PrimaryFluenceModeSequence
    found = read_beam(dataset)
    assert (len(found.mlcs), found.fluence_mode) == (1, "")
    np.testing.assert_array_equal(found.gantry_deg, [350, 350])
    np.testing.assert_array_equal(found.jaw_y_mm, [[-50, 50], [-50, 50]])
    np.testing.assert_array_equal(found.jaw_x_mm, [[-np.inf, np.inf]] * 2)


def test_two_layers_of_leaves_and_no_jaws(dataset: Dataset, beam: Dataset) -> None:
    upper, lower = LEAVES[0], ["-2", "-3", "2", "3"]
    beam.BeamLimitingDeviceSequence = Sequence(
        [
            make(RTBeamLimitingDeviceType="MLCX1", NumberOfLeafJawPairs=3, LeafPositionBoundaries=[-15, -5, 5, 15]),
            make(RTBeamLimitingDeviceType="MLCX2", NumberOfLeafJawPairs=2, LeafPositionBoundaries=[-10, 0, 10]),
        ]
    )
    first, second, _ = beam.ControlPointSequence
    first.BeamLimitingDevicePositionSequence = Sequence([position("MLCX2", lower), position("MLCX1", upper)])
    second.BeamLimitingDevicePositionSequence = Sequence([position("MLCX1", LEAVES[1])])
    found = read_beam(dataset)
    assert [mlc.axis for mlc in found.mlcs] == ["X", "X"]
    np.testing.assert_array_equal(found.mlcs[0].leaf_mm[1:].reshape(2, 6), [np.array(LEAVES[1], dtype=float)] * 2)
    np.testing.assert_array_equal(found.mlcs[1].leaf_mm, [[[-2, -3], [2, 3]]] * 3)


def test_leaves_that_are_listed_but_never_positioned_are_out_of_the_way(dataset: Dataset, beam: Dataset) -> None:
    first, second, _ = beam.ControlPointSequence
    del first.BeamLimitingDevicePositionSequence[2], second.BeamLimitingDevicePositionSequence
    assert read_beam(dataset).mlcs == ()
    (notice,) = plan_from(dataset, "rp.dcm")[1]
    assert (notice.code, notice.where) == ("leaves-not-positioned", "arc 2")
    assert "MLCX is listed but no control point gives leaf positions" in notice.message


def make_wedge(**changes: object) -> Dataset:
    values = {
        "WedgeNumber": 1,
        "WedgeID": "W60",
        "WedgeType": "MOTORIZED",
        "WedgeAngle": "60",
        "WedgeOrientation": 90.0,
    }
    return make(**{**values, **changes})


def wedge_at(where: str, number: int = 1) -> Sequence:
    return Sequence([make(ReferencedWedgeNumber=number, WedgePosition=where)])


def test_a_wedge_that_is_taken_out(dataset: Dataset, beam: Dataset) -> None:
    """In for the first quarter of the meterset; a fourth control point at 0.25 takes it out."""
    first, second, last = beam.ControlPointSequence
    out = make(ControlPointIndex=2, CumulativeMetersetWeight="0.25", WedgePositionSequence=wedge_at("OUT"))
    first.WedgePositionSequence = wedge_at("IN")
    beam.ControlPointSequence = Sequence([first, second, out, last])
    second.GantryRotationDirection = "CW"
    beam.WedgeSequence = Sequence([make_wedge(WedgeNumber=1)])
    (wedge,) = read_beam(dataset).wedges
    assert (wedge.id, wedge.kind, wedge.angle_deg, wedge.orientation_deg) == ("W60", "MOTORIZED", 60.0, 90.0)
    assert wedge.inside.tolist() == [True, True, False, False]


def make_block(**changes: object) -> Dataset:
    values = {
        "BlockNumber": 1,
        "BlockName": "B1",
        "BlockType": "SHIELDING",
        "BlockDivergence": "PRESENT",
        "SourceToBlockTrayDistance": "650",
        "BlockTransmission": "0.04",
        "BlockNumberOfPoints": 3,
        "BlockData": ["-10", "-20", "30", "-20", "-10", "15"],
    }
    return make(**{**values, **changes})


def test_blocks_and_their_tray(dataset: Dataset, beam: Dataset) -> None:
    beam.BlockSequence = Sequence(
        [make_block(), make_block(BlockName="", BlockType="APERTURE", BlockDivergence="ABSENT")]
    )
    beam.TotalBlockTrayFactor = "0.97"
    found = read_beam(dataset)
    first, second = found.blocks
    assert (first.name, first.kind, first.transmission, first.divergent, first.tray_mm) == (
        "B1",
        "SHIELDING",
        0.04,
        True,
        650.0,
    )
    np.testing.assert_array_equal(first.polygon_mm, [(-10, -20), (30, -20), (-10, 15)])
    assert (second.name, second.kind, second.divergent) == ("1", "APERTURE", False)
    assert found.block_tray_factor == 0.97


def test_meterset_weights_of_any_scale(dataset: Dataset, beam: Dataset) -> None:
    for control_point, weight in zip(beam.ControlPointSequence, ("0", "50", "200"), strict=True):
        control_point.CumulativeMetersetWeight = weight
    beam.FinalCumulativeMetersetWeight = "200"
    np.testing.assert_array_equal(read_beam(dataset).meterset_fraction, [0, 0.25, 1])


def test_a_wedge_that_is_out_does_no_harm(dataset: Dataset, beam: Dataset) -> None:
    beam.WedgeSequence = Sequence([make(WedgeNumber=1, WedgeID="MW", WedgeType="MOTORIZED")])
    beam.ControlPointSequence[0].WedgePositionSequence = Sequence([make(ReferencedWedgeNumber=1, WedgePosition="OUT")])
    assert read_beam(dataset).wedges == ()


def test_boluses_are_kept_and_noticed(dataset: Dataset, beam: Dataset) -> None:
    beam.ReferencedBolusSequence = Sequence([make(ReferencedROINumber=9)])
    assert (read_beam(dataset).bolus, read_beam(dataset).bolus_rois) == (("ROI 9",), (9,))
    assert [(n.code, n.where) for n in plan_from(dataset, "rp.dcm")[1]] == [("bolus", "arc 2")]


def on_first(**values: object) -> Callable[[Dataset], None]:
    return lambda beam: [setattr(beam.ControlPointSequence[0], k, v) for k, v in values.items()] and None


def with_block(**changes: object) -> Callable[[Dataset], None]:
    return lambda beam: beam.update(make(BlockSequence=[make_block(**changes)]))


def with_wedge(where: str | None, **changes: object) -> Callable[[Dataset], None]:
    def change(beam: Dataset) -> None:
        beam.WedgeSequence = Sequence([make_wedge(**changes)])
        if where is not None:
            beam.ControlPointSequence[0].WedgePositionSequence = wedge_at(where)

    return change


def leaves(*positions: str) -> Callable[[Dataset], None]:
    def change(beam: Dataset) -> None:
        beam.ControlPointSequence[1].BeamLimitingDevicePositionSequence[0].LeafJawPositions = list(positions)

    return change


def jaws(kind: str, low: str, high: str) -> Callable[[Dataset], None]:
    def change(beam: Dataset) -> None:
        for item in beam.ControlPointSequence[0].BeamLimitingDevicePositionSequence:
            if item.RTBeamLimitingDeviceType == kind:
                item.LeafJawPositions = [low, high]

    return change


def drop_devices(*kinds: str) -> Callable[[Dataset], None]:
    def change(beam: Dataset) -> None:
        devices = beam.BeamLimitingDeviceSequence
        beam.BeamLimitingDeviceSequence = Sequence([d for d in devices if d.RTBeamLimitingDeviceType not in kinds])

    return change


def add_device(kind: str, pairs: int) -> Callable[[Dataset], None]:
    device = make(RTBeamLimitingDeviceType=kind, NumberOfLeafJawPairs=pairs)
    return lambda beam: beam.BeamLimitingDeviceSequence.append(device)


REFUSALS: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "electrons": (lambda b: setattr(b, "RadiationType", "ELECTRON"), "radiation type 'ELECTRON'; only PHOTON"),
    "block of unknown type": (with_block(BlockType="LEAD"), "block 'B1': BlockType is 'LEAD'; expected SHIELDING or"),
    "block data": (
        with_block(BlockNumberOfPoints=4),
        "BlockData holds 6 numbers; expected two for each of .* 4 points",
    ),
    "block outline": (with_block(BlockNumberOfPoints=2, BlockData=[1, 2, 3, 4]), "block 'B1': its outline has shape"),
    "compensator": (lambda b: b.update(make(CompensatorSequence=[make(CompensatorID="C")])), "compensator 'C'"),
    "applicator": (lambda b: b.update(make(ApplicatorSequence=[make(ApplicatorID="cone")])), "applicator 'cone'"),
    "accessory": (
        lambda b: b.update(make(GeneralAccessorySequence=[make(GeneralAccessoryID="tray")])),
        "accessory 'tray', which is not supported",
    ),
    "wedge without position": (with_wedge(None), "wedge 'W60': control point 0 gives its WedgePosition as ''"),
    "wedge half in": (with_wedge("HALF"), "WedgePosition as 'HALF'; expected IN or OUT"),
    "wedge of unknown type": (with_wedge("IN", WedgeType="PARTIAL"), "WedgeType is 'PARTIAL', which is not supported"),
    "wedge angle": (with_wedge("IN", WedgeAngle="-3"), "wedge 'W60': has an angle of -3"),
    "energy changes": (lambda b: setattr(b.ControlPointSequence[1], "NominalBeamEnergy", "10"), "NominalBeamEnergy"),
    "gantry without direction": (on_first(GantryRotationDirection="NONE"), "moves from 350 to 2 degrees"),
    "table pitch": (on_first(TableTopPitchAngle=3.0), "table top pitch of 3 degrees"),
    "eccentric table": (on_first(TableTopEccentricAngle="5"), "table top eccentric angle of 5"),
    "no isocentre": (lambda b: b.ControlPointSequence[0].__delattr__("IsocenterPosition"), "IsocenterPosition"),
    "two jaws on one axis": (add_device("X", 1), "'X' with 1 pair"),
    "one MLC twice": (add_device("MLCX", 60), "'MLCX' with 60 pair"),
    "MLC without leaves": (add_device("MLCY", 0), r"'MLCY' with 0 pair\(s\) is not supported"),
    "crossed leaves": (
        leaves("8", "-6", "-7", "5", "6", "7"),
        "MLCX: control point 1, leaf pair 1 is crossed: .* 8 mm",
    ),
    "leaf in cm": (leaves("-600", "-6", "-7", "5", "6", "7"), "control point 1, leaf pair 1 is at -600 mm; .* 400 mm"),
    "crossed jaws": (jaws("ASYMX", "20", "-20"), "control point 0 has crossed X jaws: 20 mm lies beyond -20 mm"),
    "jaw in cm": (jaws("ASYMY", "-2000", "20"), "control point 0 has Y jaws at .*-2000.* 400 mm"),
    "static with moving leaves": (
        lambda b: setattr(b, "BeamType", "STATIC"),
        "STATIC but between control points 0 and 1",
    ),
    "no jaw along x": (drop_devices("ASYMX", "MLCX"), "neither jaws nor leaves limit the beam along X"),
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


@pytest.mark.parametrize("missing", ["BlockTransmission", "SourceToBlockTrayDistance"])
def test_a_block_must_say_what_it_lets_through_and_where_it_is(dataset: Dataset, beam: Dataset, missing: str) -> None:
    beam.BlockSequence = Sequence([make_block(**{missing: None})])
    with pytest.raises(DicomError, match=rf"beam 2 'arc 2', block 'B1': {missing} .* is missing"):
        read_beam(dataset)


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
        ({"meterset_mu": 2e5}, "meterset of 200000 MU; expected a positive number up to 100000"),
        ({"mlcs": (Mlc("X", np.array([-1.0, 1.0]), np.zeros((2, 2, 1))),)}, "leaf positions for 2 control points"),
        ({"mlcs": tuple(Mlc(a, np.array([-1.0, 1.0]), np.zeros((3, 2, 1))) for a in "XY")}, "one axis is supported"),
        ({"jaw_x_mm": [[-np.inf, 10.0]] * 3}, "neither jaws nor leaves limit the beam along X"),
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
    (mlc,) = arc.mlcs
    assert mlc.leaf_mm.shape == (76, 2, 80)
    np.testing.assert_array_equal(mlc.leaf_boundary_mm, np.arange(-200, 201, 5))
    assert np.all(mlc.leaf_mm[:, 0] <= mlc.leaf_mm[:, 1])
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
        assert (beam.energy_mv, beam.meterset_mu, beam.technique, beam.mlcs) == (6.0, 118.0, "STATIC", ())
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
        (mlc,) = beam.mlcs
        # Both banks of a sliding window start on one side and end on the other, and no leaf ever turns back.
        steps = np.diff(mlc.leaf_mm, axis=0)
        assert np.all(steps >= 0) or np.all(steps <= 0)
