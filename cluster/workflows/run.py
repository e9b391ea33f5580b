"""The way in for whoever runs jobs: a spec and where to run it in, a result out."""

from __future__ import annotations

from cluster.jobs.context import JobContext
from cluster.jobs.model import JobKind, JobResult, JobSpec


def run_job(spec: JobSpec, context: JobContext) -> JobResult:
    """What a job asks for. DoseengError says what is wrong with it; Cancelled when it is no longer wanted.

    The result is a function of the spec and of `context.earlier`: a job that runs again finds the same. Modules load
    when their kind is asked for, since a driver may never meet it.
    """
    match spec.kind:
        case JobKind.DOSE:
            from cluster.workflows.dose import run_dose

            return run_dose(spec, context)
        case JobKind.EVALUATE:
            from cluster.workflows.evaluation import run_evaluation

            return run_evaluation(spec, context)
        case JobKind.ADAPT:
            from cluster.workflows.adaptation import run_adaptation

            return run_adaptation(spec, context)
