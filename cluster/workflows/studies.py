"""Prepared cases of evaluate jobs, a few per worker: the blocks of a job that meet on a worker read its case once."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cluster.executor.placement import unit_backend
from cluster.jobs.model import JobKind, JobSpec
from cluster.robustness import RobustnessRequest, Study, study_of
from cluster.storage.blobs import BlobStore
from cluster.workflows.inputs import engine_inputs, goals_file, is_text, scenarios_of
from cluster.workflows.materialize import case_from
from cluster.workflows.options import EvaluateOptions, options_from
from doseeng.dose import Dose
from doseeng.engine import EngineSettings, prepare, scenario_dose
from doseeng.photon import Algorithm
from doseeng.scenario import NOMINAL, Scenario
from robust.tally import Basis, basis_of, highest_gy

KEPT: Final = 2
"""Prepared cases per worker. One of a large CT is about 1 GB; with two, units of two jobs may alternate."""


@dataclass(frozen=True, slots=True, eq=False)
class Workshop:
    """What the units of a job are given. blobs: of its site. scratch: its folder on the driver's machine."""

    blobs: BlobStore
    scratch: Path

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder, removed afterwards: below the job's own, which is cleared whatever happens to this process,
        or on another machine where its temporary files are."""
        here = self.scratch if self.scratch.is_dir() else None
        with tempfile.TemporaryDirectory(prefix="unit-", dir=here) as name:
            yield Path(name)


@dataclass(frozen=True, slots=True, eq=False)
class ReadyStudy:
    """A study and what all of its blocks share. asked: the request as plain data, for provenance."""

    study: Study
    basis: Basis
    asked: dict[str, Any]

    def dose_of(self, scenario: Scenario) -> Dose:
        """The engine's own dose."""
        return scenario_dose(self.study.prepared, scenario)


@dataclass(slots=True, eq=False)
class Studies:
    """The studies that this process keeps, least recently used first."""

    most: int = KEPT
    _kept: OrderedDict[str, ReadyStudy] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, spec: JobSpec, at: Workshop) -> ReadyStudy:
        """The study of a job, made where it is not kept; errors as `read_case`, `prepare` and `study_of`."""
        key = spec.content_key
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = ready_study(spec, at)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
        return made

    def forget(self, spec: JobSpec) -> None:
        """A job has ended."""
        with self._lock:
            self._kept.pop(spec.content_key, None)


def ready_study(spec: JobSpec, at: Workshop) -> ReadyStudy:
    """From digests and options to a study, on the backend of this worker; a function of the spec alone."""
    options = options_from(JobKind.EVALUATE, spec.options)
    assert isinstance(options, EvaluateOptions)
    with at.folder() as folder:
        case = case_from(spec, at.blobs, folder)
        inputs = engine_inputs(options, at.blobs, folder)
        prepared = prepare(
            case,
            machine=options.machine or None,
            machine_folders=inputs.machine_folders,
            hu_table=inputs.hu_table,
            settings=EngineSettings(spacing_mm=options.spacing_mm, photon=inputs.photon(case, Algorithm.PENCIL)),
            backend=unit_backend(options.backend),
        )
        request = RobustnessRequest(
            scenarios_of(options, folder),
            options.treatment_site,
            options.setup_mm,
            options.range_percent,
            goals_file(options, folder),
            options.seed,
        )
        study = study_of(prepared, request)
    basis = basis_of(
        case,
        study.scenarios,
        study.goals,
        prepared.grid,
        study.settings,
        lambda: highest_gy(scenario_dose(prepared, NOMINAL)),
    )
    return ReadyStudy(study, basis, {"options": _short(options)})


def _short(options: EvaluateOptions) -> dict[str, Any]:
    """The options for a record: texts of files by their digest."""

    def short(value: Any) -> Any:
        is_file = isinstance(value, str) and is_text(value)
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()}" if is_file else value

    return {key: short(value) for key, value in options.model_dump(mode="json").items()}
