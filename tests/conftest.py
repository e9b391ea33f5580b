"""Fixtures every package uses."""

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RTPlanStorage, RTStructureSetStorage
from scipy.optimize import nnls

from cluster.cli import main
from doseeng.case import Case, DicomContext
from doseeng.dicom.ct import write_ct
from doseeng.dicom.rtdose import write_dose
from doseeng.dicom.rtionplan_out import ion_plan_to_dataset
from doseeng.dicom.rtstruct import structure_set_to_dataset
from doseeng.dicom.writing import new_context, new_dataset, save
from doseeng.engine import prepare, scenario_dose, single_beam_dose
from doseeng.grid import Grid, Volume
from doseeng.machines.photonfile import write_photon_machine
from doseeng.machines.photonmodel import (
    Cones,
    Electrons,
    Jaws,
    LeafModel,
    Modes,
    PhotonMachine,
    Reference,
    Source,
    WedgeModel,
)
from doseeng.plan import Mlc, PhotonBeam, Plan, Prescription, ProtonBeam
from doseeng.structures import Structure, StructureSet

ENERGIES_MEV = (102.0, 98.0, 94.0, 90.0, 86.0, 82.0, 78.0)
"""Peaks from 79 to 49 mm depth: round the CTV of the water case."""


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The reference data folder; tests that need it skip where it is absent."""
    path = Path(os.environ.get("DOSEENG_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("reference data not found: set DOSEENG_DATA or put it in ../shared/data")
    return path


@pytest.fixture(scope="session")
def unzipped(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`unzipped("dcpt_proton_slab")`: the folder of one zip of `dicom/`, unpacked once per session."""
    done: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name not in done:
            archive = data_dir / "dicom" / f"{name}.zip"
            if not archive.is_file():
                pytest.skip(f"reference data has no dicom/{name}.zip")
            done[name] = tmp_path_factory.mktemp(name)
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(done[name])
        return done[name]

    return unpack


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict:
        """What a program reads: standard output is JSON and nothing else."""
        return json.loads(self.out)


@pytest.fixture
def doseeng(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ended]:
    """`doseeng("dose", folder, ...)`: the command line, run in this process in `tmp_path`, no machines installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("DOSEENG_MACHINES", raising=False)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr("sys.argv", ["doseeng", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ended(code, *capsys.readouterr())

    return run


@dataclass(frozen=True)
class WaterCase:
    """A proton case in a box of water: two fields that cover a CTV, with the engine's own doses as the reference.

    secrets: pieces of the patient's name and ID, which must never turn up outside DICOM objects.
    """

    case: Case
    secrets: tuple[str, ...] = ("Quatermain", "Zebulon", "QZ-4711")

    def write(self, folder: Path, case: Case | None = None) -> Path:
        """Write `case` (by default the whole case as it is) as DICOM objects into a new folder."""
        case = case or self.case
        folder.mkdir(parents=True)
        context = write_ct(folder, case.ct, new_context("Quatermain^Zebulon", "QZ-4711"))
        structures = replace(
            case.structures,
            frame_of_reference_uid=context.frame_of_reference_uid,
            referenced_series_uid=context.series_uid,
        )
        save(structure_set_to_dataset(structures, context), folder / "rs.dcm")
        save(ion_plan_to_dataset(case.plan, context, source_distance_mm=(2234.8, 1859.1)), folder / "rp.dcm")
        for dose in case.doses:
            name = "".join(["rd", *map(str, dose.beam_numbers)])
            write_dose(folder / f"{name}.dcm", dose, context, case.plan)
        return folder


@pytest.fixture(scope="session")
def water_case() -> WaterCase:
    """12 x 12 x 9 cm of water in air, 4 mm voxels; 2 Gy to a CTV of 24 mm from gantry 0 and 90."""
    grid = Grid((30, 40, 40), (4.0, 4.0, 4.0), (-78.0, -78.0, -58.0))
    hu = np.full(grid.shape, -1000.0, dtype=np.float32)
    hu[4:26, 5:35, 5:35] = 0.0
    structures = StructureSet(
        "water",
        "1.2.826.0.1.3680043.10.4711.2",
        "",
        (
            Structure(1, "BODY", "EXTERNAL", _box((60.0, 60.0, 44.0), (0.0, 0.0, 0.0))),
            Structure(2, "CTV", "CTV", _box((12.0, 12.0, 12.0), (0.0, 0.0, 0.0))),
            Structure(3, "Cord", "ORGAN", _box((6.0, 6.0, 24.0), (-40.0, 40.0, 0.0))),
        ),
    )
    layers = tuple(_layer(number, energy) for number, energy in enumerate(ENERGIES_MEV))
    plan = Plan("W1", "1.2.826.0.1.3680043.10.4711.1", "HFS", layers, (Prescription(2, 2.0),), structures.uid)
    case = Case("water", Volume(grid, hu), structures, plan)
    by_layer = prepare(case, grid=grid)
    along = [
        single_beam_dose(by_layer, i).volume.values[13:17, 16:24, 18:22].mean(axis=(0, 2)) for i in range(len(layers))
    ]
    mu = nnls(np.column_stack(along), np.ones(8))[0]
    beams = tuple(_field(number, gantry, layers, mu) for number, gantry in ((1, 0.0), (2, 90.0)))
    prepared = prepare(replace(case, plan=replace(plan, beams=beams)), grid=grid)
    fields = [replace(single_beam_dose(prepared, i), plan_uid=plan.uid) for i in range(2)]
    total = Volume(grid, fields[0].volume.values + fields[1].volume.values)
    doses = (replace(fields[0], volume=total, summation="PLAN", beam_numbers=()), *fields)
    return WaterCase(replace(prepared.case, doses=doses))


def _box(half_mm: tuple[float, float, float], centre_mm: tuple[float, float, float]) -> tuple[np.ndarray, ...]:
    """Contours on the CT slices of a box that ends half a slice beyond the outer ones."""
    x, y, z = centre_mm
    square = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]) * half_mm[:2] + (x, y)
    planes = z + np.arange(-half_mm[2] + 2.0, half_mm[2], 4.0)
    return tuple(np.column_stack([square, np.full(4, plane)]) for plane in planes)


def _layer(number: int, energy_mev: float) -> ProtonBeam:
    """One energy from gantry 0, 1 MU in each spot of a square of 48 mm."""
    side = np.arange(-24.0, 25.0, 6.0)
    uv = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    energy = np.full(len(uv), energy_mev)
    return ProtonBeam(number, "L", "generic-pbs", (0.0, 0.0, 0.0), 0.0, 0.0, uv, energy, np.ones(len(uv)))


def _field(number: int, gantry_deg: float, layers: tuple[ProtonBeam, ...], mu: np.ndarray) -> ProtonBeam:
    """All layers with their weights, from another side."""
    return replace(
        layers[0],
        number=number,
        name=f"F{number}",
        gantry_deg=gantry_deg,
        spot_uv_mm=np.concatenate([b.spot_uv_mm for b in layers]),
        spot_energy_mev=np.concatenate([b.spot_energy_mev for b in layers]),
        spot_mu=np.concatenate([b.spot_mu * w for b, w in zip(layers, mu, strict=True)]),
    )


@dataclass(frozen=True)
class PhotonCase:
    """A photon case in the same box of water: a jaw field and a leaf field, with the engine's own doses as reference.

    machine: a made-up linear accelerator with plausible numbers, "L6", alias "LINAC"; folder: where its file lies.
    """

    case: Case
    machine: PhotonMachine
    folder: Path
    secrets: tuple[str, ...] = ("Quatermain", "Zebulon", "QZ-4711")

    def write(self, folder: Path, case: Case | None = None) -> Path:
        """Write `case` (by default the whole case as it is) as DICOM objects into a new folder."""
        case = case or self.case
        folder.mkdir(parents=True)
        context = write_ct(folder, case.ct, new_context("Quatermain^Zebulon", "QZ-4711"))
        structures = replace(
            case.structures,
            frame_of_reference_uid=context.frame_of_reference_uid,
            referenced_series_uid=context.series_uid,
        )
        save(structure_set_to_dataset(structures, context), folder / "rs.dcm")
        save(_photon_plan_to_dataset(case.plan, context), folder / "rp.dcm")
        for dose in case.doses:
            name = "".join(["rd", *map(str, dose.beam_numbers)])
            write_dose(folder / f"{name}.dcm", dose, context, case.plan)
        return folder


def _linac() -> PhotonMachine:
    """A 6 MV beam with numbers of the usual size; no measurement is behind them."""
    edges = np.array([0.0, 20.0, 40.0, 60.0, 90.0, 130.0, 180.0])
    primary = np.column_stack([[0.45, 0.27, 0.14, 0.10, 0.03, 0.01], [3.0, 4.0, 6.0, 9.0, 15.0, 20.0]])
    scatter = np.column_stack([[0.22, 0.24, 0.18, 0.18, 0.11, 0.07], [0.10, 0.11, 0.13, 0.17, 0.25, 0.30]])
    return PhotonMachine(
        name="L6",
        version="1",
        description="a linear accelerator that does not exist",
        source="made up for tests",
        energy_mv=6.0,
        fluence_mode="STANDARD",
        source_axis_mm=1000.0,
        reference=Reference(ssd_mm=900.0, depth_mm=100.0, field_mm=100.0, gy_per_mu=0.01),
        spectrum_mev=np.array([0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0]),
        spectrum_weight=np.array([0.03, 0.12, 0.25, 0.30, 0.16, 0.10, 0.04]),
        softening=1.0,
        profile_mm=np.array([0.0, 100.0, 300.0]),
        profile=np.array([1.0, 1.03, 1.05]),
        head=Source((1.0, 1.0), scatter_share=0.08, scatter_sigma_mm=25.0, scatter_plane_mm=125.0),
        electrons=Electrons(share=0.2, depth_mm=10.0, sigma_mm=10.0),
        jaws=Jaws(transmission=0.005, x_plane_mm=400.0, y_plane_mm=320.0),
        leaves=(LeafModel("MLC", ((20, 10.0),), 480.0, 0.015, 0.01, tip_offset_mm=0.5, tongue_mm=0.5),),
        wedges=(WedgeModel("W30", 30.0, np.array([-100.0, 100.0]), np.array([0.45, 0.85])),),
        cones=Cones(edges, primary, scatter),
        modes=Modes(np.array([[0.8, 2.5, 0.05], [0.2, 1.0, 0.1]]), np.array([[0.6, 0.1, 0.2], [0.4, 0.25, 0.7]])),
        aliases=("LINAC",),
    )


@pytest.fixture(scope="session")
def photon_case(water_case: WaterCase, tmp_path_factory: pytest.TempPathFactory) -> PhotonCase:
    """2 Gy to the CTV of the water case from gantry 0 (jaws 60 x 50 mm) and 90 (leaves 40 mm, collimator 30)."""
    linac, folder = _linac(), tmp_path_factory.mktemp("linacs")
    write_photon_machine(linac, folder / "l6.toml")
    leaves = np.tile([[0.0], [0.0]], (2, 1, 20))
    leaves[:, 0, 8:12], leaves[:, 1, 8:12] = -20.0, 20.0
    mlc = Mlc("X", np.arange(-100.0, 101.0, 10.0), leaves)
    fields = (
        _photon_field(1, 0.0, 0.0, (30.0, 25.0)),
        replace(_photon_field(2, 90.0, 30.0, (40.0, 40.0)), mlcs=(mlc,)),
    )
    plan = replace(water_case.case.plan, label="X1", uid="1.2.826.0.1.3680043.10.4711.5", beams=fields)
    case = replace(water_case.case, plan=plan, doses=())
    grid = case.ct.grid
    once = prepare(case, grid=grid, machine_folders=[folder])
    target = scenario_dose(once).volume.values[12:18, 17:23, 17:23].mean()
    beams = tuple(replace(beam, meterset_mu=100.0 * 2.0 / float(target)) for beam in fields)
    prepared = prepare(replace(case, plan=replace(plan, beams=beams)), grid=grid, machine_folders=[folder])
    single = [single_beam_dose(prepared, i) for i in range(2)]
    total = Volume(grid, single[0].volume.values + single[1].volume.values)
    doses = (replace(single[0], volume=total, summation="PLAN", beam_numbers=()), *single)
    return PhotonCase(replace(prepared.case, doses=doses), linac, folder)


def _photon_field(number: int, gantry_deg: float, collimator_deg: float, half_mm: tuple[float, float]) -> PhotonBeam:
    """A static field of two control points, symmetric jaws, 100 MU."""
    x, y = (np.tile([-half, half], (2, 1)) for half in half_mm)
    angles = (np.full(2, angle) for angle in (gantry_deg, collimator_deg, 0.0))
    weights = np.array([0.0, 1.0])
    fixed = (number, f"X{number}", "LINAC", 6.0, "STANDARD", "STATIC", 1000.0, 100.0)
    return PhotonBeam(*fixed, weights, np.zeros((2, 3)), *angles, x, y)


def _photon_plan_to_dataset(plan: Plan, context: DicomContext) -> Dataset:
    """An RT Plan as a planning system would export it, every control point complete."""
    beams = plan.photon_beams
    made = new_dataset(RTPlanStorage, context, "RTPLAN", sop_instance_uid=plan.uid)
    made.RTPlanLabel = plan.label
    made.DoseReferenceSequence = [
        _item(DoseReferenceType="TARGET", ReferencedROINumber=p.roi_number, TargetPrescriptionDose=p.dose_gy)
        for p in plan.prescriptions
    ]
    references = [_item(ReferencedBeamNumber=b.number, BeamMeterset=b.meterset_mu) for b in beams]
    group = {"NumberOfFractionsPlanned": beams[0].fractions, "ReferencedBeamSequence": references}
    made.FractionGroupSequence = [_item(FractionGroupNumber=1, **group)]
    made.PatientSetupSequence = [_item(PatientSetupNumber=1, PatientPosition=plan.patient_position)]
    made.ReferencedStructureSetSequence = [
        _item(ReferencedSOPClassUID=RTStructureSetStorage, ReferencedSOPInstanceUID=plan.structure_set_uid)
    ]
    made.BeamSequence = [_photon_beam_item(b) for b in beams]
    return made


def _photon_beam_item(beam: PhotonBeam) -> Dataset:
    devices = [_item(RTBeamLimitingDeviceType=kind, NumberOfLeafJawPairs=1) for kind in ("ASYMX", "ASYMY")]
    for mlc in beam.mlcs:
        pairs = {"NumberOfLeafJawPairs": mlc.leaf_mm.shape[2], "LeafPositionBoundaries": mlc.leaf_boundary_mm.tolist()}
        devices.append(_item(RTBeamLimitingDeviceType=f"MLC{mlc.axis}", **pairs))
    direction = np.sign(np.diff(beam.gantry_deg, append=beam.gantry_deg[-1]))
    return _item(
        BeamNumber=beam.number,
        BeamName=beam.name,
        BeamType=beam.technique,
        RadiationType="PHOTON",
        TreatmentDeliveryType="TREATMENT",
        TreatmentMachineName=beam.machine,
        PrimaryDosimeterUnit="MU",
        SourceAxisDistance=beam.source_axis_mm,
        PrimaryFluenceModeSequence=[_item(FluenceMode=beam.fluence_mode)],
        BeamLimitingDeviceSequence=devices,
        FinalCumulativeMetersetWeight=1.0,
        NumberOfControlPoints=len(beam.meterset_fraction),
        ReferencedPatientSetupNumber=1,
        ControlPointSequence=[
            _item(
                ControlPointIndex=n,
                NominalBeamEnergy=beam.energy_mv,
                GantryAngle=beam.gantry_deg[n] % 360.0,
                GantryRotationDirection={1.0: "CW", -1.0: "CC", 0.0: "NONE"}[direction[n]],
                BeamLimitingDeviceAngle=beam.collimator_deg[n] % 360.0,
                PatientSupportAngle=beam.couch_deg[n] % 360.0,
                IsocenterPosition=beam.isocenter_mm[n].tolist(),
                CumulativeMetersetWeight=beam.meterset_fraction[n],
                BeamLimitingDevicePositionSequence=[
                    _item(RTBeamLimitingDeviceType="ASYMX", LeafJawPositions=beam.jaw_x_mm[n].tolist()),
                    _item(RTBeamLimitingDeviceType="ASYMY", LeafJawPositions=beam.jaw_y_mm[n].tolist()),
                    *(
                        _item(RTBeamLimitingDeviceType=f"MLC{m.axis}", LeafJawPositions=m.leaf_mm[n].ravel().tolist())
                        for m in beam.mlcs
                    ),
                ],
            )
            for n in range(len(beam.meterset_fraction))
        ],
    )


def _item(**values: object) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made
