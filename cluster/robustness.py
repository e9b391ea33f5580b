"""The robustness job: scenarios and goals from what people write, the engine for each, report and doses out.

The doses are the engine's own, or anchored to a reference that a person gives (`robust.anchor`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.report import write_report
from doseeng.case import Case
from doseeng.comparison import ACTION_PERCENT, DISTANCE_MM, DOSE_PERCENT, compare
from doseeng.dicom.files import read_file
from doseeng.dicom.inventory import patient_key
from doseeng.dicom.rtdose import dose_from, write_dose
from doseeng.dicom.tags import text
from doseeng.dose import Dose
from doseeng.engine import Prepared, scenario_dose, single_beam_dose
from doseeng.errors import DicomError, GeometryError, MetricError, Notice
from doseeng.grid import Volume, beam_frame
from doseeng.materials import MaterialMaps
from doseeng.plan import PhotonBeam, ProtonBeam
from doseeng.scenario import NOMINAL, Modality, Scenario, require_possible
from robust.anchor import (
    DIGEST_SHOWN,
    AnchoredDoses,
    Anchoring,
    anchored,
    clipping_notices,
    digest,
    disagreement,
    reach_notices,
    usable_reference,
)
from robust.carry import BeamDose, error_carrier
from robust.evaluate import Settings, evaluate
from robust.export import anchoring_to_json
from robust.goals import Goal, goals_for, read_goal_file
from robust.result import RobustReport
from robust.scenarios import DEFAULT_SET, load_scenarios, scenario_set, site_errors


@dataclass(frozen=True, slots=True)
class RobustnessRequest:
    """What is asked: a set name or .toml path (None: the default of the plan's modality), the site's errors or explicit
    ones, a goals file, a seed."""

    scenarios: str | None = None
    site: str = "default"
    setup_mm: float | None = None
    range_percent: float | None = None
    goals: Path | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """A request about a prepared case, decided: before the first dose. notices: from preparing and from the goals."""

    prepared: Prepared
    request: RobustnessRequest
    scenarios: tuple[Scenario, ...]
    goals: tuple[Goal, ...]
    settings: Settings
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """Where scenario doses come from, and what is known about them before the first."""

    dose_of: Callable[[Scenario], Dose]
    gates: tuple[Notice, ...] = ()
    notices: tuple[Notice, ...] = ()
    anchoring: Anchoring | None = None


def run_robustness(
    prepared: Prepared,
    request: RobustnessRequest,
    report_path: Path,
    dose_folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    anchor: Dose | None = None,
) -> tuple[RobustReport, Path]:
    """Evaluate a prepared case and write its report; returns the result and the report's path.

    dose_folder: where RTDOSE files of nominal, worst, voxel-wise minimum and maximum go, all of them or none; None:
    nowhere. The report is written last. anchor: the reference that scenario doses are anchored to, from `read_anchor`;
    the case must be prepared on its grid (GeometryError). An anchor that cannot be one is an error; one that the
    engine's nominal dose grossly disagrees with is not used: the engine's nominal dose alone is shown, UNEVALUABLE.
    """
    case, modality = prepared.case, prepared.case.plan.modality
    study = study_of(prepared, request)
    source = _own_doses(prepared) if anchor is None else _anchored_doses(prepared, anchor)
    far: tuple[Notice, ...] = ()
    scenarios = study.scenarios
    if source.anchoring is not None:
        scenarios = scenarios if source.anchoring.is_used else (NOMINAL,)
        far = reach_notices(scenarios, modality)
    result = evaluate(
        case,
        scenarios,
        study.goals,
        source.dose_of,
        settings=study.settings,
        gates=source.gates,
        notices=(*study.notices, *source.notices, *far, *without_leaves(prepared, scenarios)),
        provenance={**prepared.provenance, "request": _as_json(study.request)},
        progress=progress,
    )
    result = _with_anchoring(result, source)
    if dose_folder is not None:
        _write_doses(result, case, dose_folder)
    return result, write_report(result, case, report_path)


def study_of(prepared: Prepared, request: RobustnessRequest) -> Study:
    """What is to be evaluated. ConfigError for scenarios that cannot be; errors as `robust.goals.goals_for`."""
    modality = prepared.case.plan.modality
    request = replace(request, scenarios=request.scenarios or DEFAULT_SET[modality])
    scenarios = requested_scenarios(request, modality)
    goal_file = read_goal_file(request.goals)
    goals, notices = goals_for(prepared.case, goal_file)
    settings = Settings(dose_uncertainty_percent=goal_file.uncertainty.dose_percent)
    return Study(prepared, request, scenarios, goals, settings, (*prepared.notices, *notices))


def read_anchor(path: Path, case: Case, accept_patient_mismatch: bool = False) -> Dose:
    """The RTDOSE that scenario doses of `case` are to be anchored to.

    DicomError: no readable RTDOSE, of another patient (unless accepted), or the case is not from DICOM. GeometryError:
    in another frame of reference than the planning image, so on another anatomy. What `robust.anchor` asks of a
    reference (plan, summation, quantity) is checked when it is used.
    """
    if case.dicom is None:
        raise DicomError("the case was not read from DICOM; nothing tells whether an RTDOSE belongs to it")
    dataset = read_file(path)
    dose = dose_from(dataset, f"'{path.name}'")
    found, expected = text(dataset, "FrameOfReferenceUID"), case.dicom.frame_of_reference_uid
    if found != expected:
        raise GeometryError(
            f"anchor '{path.name}' is in frame of reference {found or 'none'}, the planning image in {expected}: it "
            "was computed on another image; give the dose of this plan on its planning image"
        )
    patient = case.dicom.patient.get("PatientID", "")
    if patient_key(text(dataset, "PatientID")) != patient_key(patient) and not accept_patient_mismatch:
        raise DicomError(
            f"anchor '{path.name}' and the plan carry different patient IDs; find out whose dose this is, or accept it "
            "(--accept-patient-mismatch)"
        )
    return dose


def requested_scenarios(request: RobustnessRequest, modality: Modality) -> tuple[Scenario, ...]:
    """The scenarios of a request: a named set with the site's or explicit magnitudes, or a list from TOML.

    A site's range error is one of stopping powers: photon plans have an error of density only where it is given.
    ConfigError for a scenario with an error that the modality does not know.
    """
    name = request.scenarios or DEFAULT_SET[modality]
    if name.endswith(".toml"):
        scenarios = load_scenarios(Path(name))
    else:
        site_setup, site_range = site_errors(request.site)
        usual_percent = site_range if modality == "proton" else 0.0
        scenarios = scenario_set(
            name,
            setup_mm=site_setup if request.setup_mm is None else request.setup_mm,
            range_percent=usual_percent if request.range_percent is None else request.range_percent,
            rng=np.random.default_rng(request.seed),
            modality=modality,
        )
    for scenario in scenarios:
        require_possible(scenario, modality)
    return scenarios


def _own_doses(prepared: Prepared) -> _Source:
    """The engine's own doses, the nominal one held against the planning system's."""
    nominal = scenario_dose(prepared, NOMINAL)
    gates, notices = agreement(prepared, nominal)

    def dose_of(scenario: Scenario) -> Dose:
        return nominal if scenario == NOMINAL else scenario_dose(prepared, scenario)

    return _Source(dose_of, gates, notices)


def _anchored_doses(prepared: Prepared, anchor: Dose) -> _Source:
    """Doses anchored to `anchor`; when the nominal doses disagree grossly, the engine's nominal dose and a gate."""
    if not prepared.grid.is_same(anchor.volume.grid):
        raise GeometryError(
            f"the case is prepared on a grid {prepared.grid.shape}, the anchor has {anchor.volume.grid.shape}; prepare "
            "the case on the anchor's grid"
        )
    plan = prepared.case.plan
    reference, factor = usable_reference(anchor, plan, prepared.quantity)
    beams = [single_beam_dose(prepared, index) for index in range(len(prepared.beams))]
    total = np.zeros(prepared.grid.shape, dtype=np.float32)
    for beam in beams:
        total += beam.volume.values
    nominal = replace(beams[0], volume=Volume(prepared.grid, total), summation="PLAN", beam_numbers=())
    found = compare("plan", reference, nominal)
    gates, notices = disagreement(found, max(beam.fractions for beam in prepared.beams), plan.modality)
    sha256 = digest(anchor)
    anchoring = Anchoring(
        anchor.uid,
        sha256,
        factor,
        found.gamma_percent,
        found.points,
        found.mean_ratio,
        is_used=not gates,
        is_carried=plan.modality == "proton",
    )
    if gates:
        return _Source(lambda _scenario: nominal, gates, notices, anchoring)
    error = _carrier(prepared, Volume(prepared.grid, reference.volume.values - total), beams)
    label = f"sha256 {sha256[:DIGEST_SHOWN]}"
    return _Source(
        anchored(reference, lambda scenario: scenario_dose(prepared, scenario), error, label), (), notices, anchoring
    )


def _carrier(prepared: Prepared, error: Volume, doses: list[Dose]) -> Callable[[float], npt.NDArray[np.float32]]:
    """Where the error of the nominal dose goes when a scenario scales the materials; with photons it stays."""
    maps = prepared.maps[0]
    if not isinstance(maps, MaterialMaps):
        return lambda _scale: error.values
    position = prepared.case.plan.patient_position
    beams = [
        BeamDose(beam_frame(beam.isocenter_mm, beam.gantry_deg, beam.couch_deg, position), dose.volume)
        for beam, dose in zip(prepared.beams, doses, strict=True)
        if isinstance(beam, ProtonBeam)
    ]
    return error_carrier(error, beams, maps.rsp)


def _with_anchoring(result: RobustReport, source: _Source) -> RobustReport:
    """The result with what its doses are anchored to, and what anchoring clipped."""
    anchoring = source.anchoring
    if anchoring is None:
        return result
    notices: tuple[Notice, ...] = ()
    if isinstance(source.dose_of, AnchoredDoses) and source.dose_of.clipped_percent:
        clipped = source.dose_of.clipped_percent
        worst = max(clipped, key=clipped.__getitem__)
        anchoring = replace(anchoring, clipped_percent=clipped[worst], clipped_in=worst)
        notices = clipping_notices(clipped)
    return replace(
        result,
        anchoring=anchoring,
        notices=(*result.notices, *notices),
        provenance={**result.provenance, "anchor": anchoring_to_json(anchoring)},
    )


def agreement(prepared: Prepared, nominal: Dose) -> tuple[tuple[Notice, ...], tuple[Notice, ...]]:
    """Gate and notice on how well the engine reproduces the planning system's nominal dose, if there is one."""
    reference = next((d for d in prepared.case.doses if d.summation == "PLAN"), None)
    if reference is None:
        text = "the case holds no plan dose; the engine's nominal dose was not checked against the planning system's"
        return (), (Notice("nominal-not-compared", "", text),)
    try:
        found = compare("plan", reference, nominal)
    except MetricError as error:
        return (), (Notice("nominal-not-compared", "", str(error)),)
    text = (
        f"gamma {found.gamma_percent:.1f} % at {DOSE_PERCENT:g} %/{DISTANCE_MM:g} mm against the planning system's "
        f"dose, mean ratio {found.mean_ratio:.3f}"
    )
    if found.gamma_percent < ACTION_PERCENT:
        gate = Notice(
            "nominal-disagrees", "plan", f"{text}; find out why with `doseeng dose` before trusting scenarios"
        )
        return (gate,), ()
    return (), (Notice("nominal-compared", "plan", text),)


def without_leaves(prepared: Prepared, scenarios: tuple[Scenario, ...]) -> tuple[Notice, ...]:
    """A notice for each beam that an error of the leaves changes nothing of, because it has none."""
    if all(scenario.leaf_opening_mm == 0.0 for scenario in scenarios):
        return ()
    return tuple(
        Notice("no-leaves-to-move", f"beam {b.number} '{b.name}'", "has no multileaf collimator: leaf errors spare it")
        for b in prepared.beams
        if isinstance(b, PhotonBeam) and not b.mlcs
    )


def _write_doses(result: RobustReport, case: Case, folder: Path) -> None:
    if case.dicom is None:
        raise DicomError("the case was not read from DICOM; there is nothing to refer to in an RTDOSE")
    folder.mkdir(parents=True, exist_ok=True)
    doses = {
        "nominal": result.nominal,
        "worst": result.worst,
        "voxel-min": replace(result.nominal, volume=result.voxel_min),
        "voxel-max": replace(result.nominal, volume=result.voxel_max),
    }
    made_by = "doseeng anchored" if result.anchoring is not None and result.anchoring.is_used else "doseeng"
    written: list[Path] = []
    try:
        for name, dose in doses.items():
            path = folder / f"{name}.dcm"
            write_dose(path, dose, case.dicom, case.plan, f"{made_by} {name}")
            written.append(path)
    finally:
        if len(written) < len(doses):
            for path in written:
                path.unlink(missing_ok=True)


def _as_json(request: RobustnessRequest) -> dict[str, object]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(request).items()}
