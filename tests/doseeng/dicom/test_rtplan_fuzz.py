"""Damaged photon plans: reading one ends in a plan that can be computed, or in an error raised on purpose."""

from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RTPlanStorage

from doseeng.dicom.rtplan import plan_from
from doseeng.dicom.writing import new_context, new_dataset
from doseeng.errors import DoseengError
from doseeng.fluence import exposures, fluence_maps, opening_box
from doseeng.machines.photonmodel import PhotonMachine, Source, WedgeModel
from doseeng.photonchecks import beam_checks, field_summary

VALUES = [
    "",
    " ",
    "0",
    "-1",
    "1",
    "3",
    "abc",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e30",
    "-1e30",
    "0.5",
    "1\\2",
    "IN",
    "CC",
]
VALUES += ["1\\2\\3\\4\\5\\6", "\\\\", "7\\x", "STATIC", "DYNAMIC", "MLCX", "APERTURE", "PHOTON", "500", "180", "\0"]
X = np.arange(-60.0, 61.0, 10.0)


def make(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, Sequence(value) if keyword.endswith("Sequence") else value)
    return made


def at(kind: str, *positions: float) -> Dataset:
    return make(RTBeamLimitingDeviceType=kind, LeafJawPositions=list(positions))


def make_plan() -> Dataset:
    """An arc of three control points with jaws, leaves, a wedge that is taken out, and a block."""
    first = make(
        NominalBeamEnergy=6,
        BeamLimitingDevicePositionSequence=[at("X", -20, 30), at("Y", -15, 15), at("MLCX", -5, -6, -7, 5, 6, 7)],
        WedgePositionSequence=[make(ReferencedWedgeNumber=1, WedgePosition="IN")],
        GantryAngle=350,
        GantryRotationDirection="CW",
        BeamLimitingDeviceAngle=0,
        PatientSupportAngle=0,
        IsocenterPosition=[1, 2, 3],
        CumulativeMetersetWeight=0,
    )
    second = make(
        GantryAngle=2,
        BeamLimitingDevicePositionSequence=[at("MLCX", -4, -5, -6, 6, 7, 8)],
        CumulativeMetersetWeight=0.25,
    )
    out = make(
        CumulativeMetersetWeight=0.25, WedgePositionSequence=[make(ReferencedWedgeNumber=1, WedgePosition="OUT")]
    )
    beam = make(
        BeamNumber=1,
        BeamName="arc",
        BeamType="DYNAMIC",
        RadiationType="PHOTON",
        PrimaryDosimeterUnit="MU",
        SourceAxisDistance=1000,
        BeamLimitingDeviceSequence=[
            make(RTBeamLimitingDeviceType="X", NumberOfLeafJawPairs=1),
            make(RTBeamLimitingDeviceType="Y", NumberOfLeafJawPairs=1),
            make(RTBeamLimitingDeviceType="MLCX", NumberOfLeafJawPairs=3, LeafPositionBoundaries=[-15, -5, 5, 15]),
        ],
        WedgeSequence=[make(WedgeNumber=1, WedgeID="W", WedgeType="STANDARD", WedgeAngle=30, WedgeOrientation=0)],
        BlockSequence=[
            make(
                BlockNumber=1,
                BlockType="SHIELDING",
                BlockTransmission=0.04,
                SourceToBlockTrayDistance=650,
                BlockNumberOfPoints=3,
                BlockData=[-10, -20, 30, -20, -10, 15],
            )
        ],
        FinalCumulativeMetersetWeight=1,
        ControlPointSequence=[first, second, out, make(GantryAngle=20, CumulativeMetersetWeight=1)],
    )
    plan = new_dataset(RTPlanStorage, new_context(), "RTPLAN")
    plan.FractionGroupSequence = Sequence(
        [
            make(
                FractionGroupNumber=1,
                NumberOfFractionsPlanned=25,
                ReferencedBeamSequence=[make(ReferencedBeamNumber=1, BeamMeterset=200)],
            )
        ]
    )
    plan.PatientSetupSequence = Sequence([make(PatientSetupNumber=1, PatientPosition="HFS")])
    plan.BeamSequence = Sequence([beam])
    return plan


PLAN = make_plan()


def places(dataset: Dataset) -> list[tuple[Dataset, Any]]:
    """Every element of a plan and of the items in it."""
    found = []
    for tag in sorted(dataset.keys()):
        found.append((dataset, tag))
        if dictionary_VR(tag) == "SQ":
            found += [place for item in dataset[tag].value for place in places(item)]
    return found


def damage(data: st.DataObject, plan: Dataset) -> None:
    """Leave out, empty, shorten, repeat, turn round or overwrite one element, as bytes that come from a file."""
    dataset, tag = data.draw(st.sampled_from([p for p in places(plan) if p[1].group == 0x300A or p[1].group == 0x0018]))
    if dictionary_VR(tag) == "SQ":
        kept = list(dataset[tag].value)
        changed = [[], kept[1:], kept[:-1], [*kept, *kept[:1]], kept[::-1]]
        dataset[tag].value = Sequence(deepcopy(data.draw(st.sampled_from(changed))))
    elif data.draw(st.booleans()):
        text = data.draw(st.sampled_from(VALUES)).encode()
        dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(text), text, 0, False, True)
    else:
        del dataset[tag]


@pytest.fixture
def machine(linac: PhotonMachine) -> PhotonMachine:
    leaves = replace(linac.leaves[0], widths=((3, 10.0),), transmission=0.01, tongue_mm=0.4, tip_offset_mm=0.3)
    wedge = WedgeModel("W", 30.0, np.array([-50.0, 50.0]), np.array([0.3, 0.9]))
    return replace(linac, leaves=(leaves,), wedges=(wedge,), head=Source((1.0, 1.0), 0.1, 20.0, 120.0))


def compute(plan: Dataset, machine: PhotonMachine) -> int:
    """Everything that happens to a plan on its way to fluence maps, which must make sense; how many there are."""
    computed = 0
    for beam in plan_from(plan, "rp.dcm")[0].photon_beams:
        assert np.isfinite(field_summary(beam).equivalent_square_mm)
        beam_checks(beam, machine)
        assert sum(exposure.mu for exposure in exposures(beam)) == pytest.approx(beam.meterset_mu)
        for exposure in exposures(beam):
            assert np.all(np.isfinite(opening_box(beam, exposure)))
            maps = fluence_maps(beam, exposure, machine, X, X)
            for values in (maps.focal, maps.extrafocal):
                assert np.all(np.isfinite(values))
                assert values.min() >= 0.0
            computed += 1
    return computed


def test_the_undamaged_plan_can_be_computed(machine: PhotonMachine) -> None:
    assert compute(PLAN, machine) == 7


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), times=st.integers(1, 3))
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_damaged_plans_end_in_a_plan_or_in_an_error_of_ours(
    machine: PhotonMachine, data: st.DataObject, times: int
) -> None:
    plan = deepcopy(PLAN)
    for _ in range(times):
        damage(data, plan)
    with suppress(DoseengError):
        compute(plan, machine)
