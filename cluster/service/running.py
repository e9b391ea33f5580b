"""Who runs a job: this place, or the centre of its site."""

from __future__ import annotations

from collections.abc import Callable

from cluster.jobs.context import JobContext
from cluster.jobs.model import JobResult, JobSpec
from cluster.service.services import Services
from cluster.workflows.run import run_job


def runner(services: Services) -> Callable[[JobSpec, JobContext], JobResult]:
    """What a driver calls for each job."""
    sites = {site.name: site for site in services.config.site}

    def run(spec: JobSpec, context: JobContext) -> JobResult:
        site = sites.get(spec.site)
        if site is None or site.center is None:
            return run_job(spec, context)
        from cluster.security.pseudonyms import open_pseudonyms
        from cluster.workflows.center import run_at_center

        pseudonyms = open_pseudonyms(services.database, services.config.data, spec.site)
        return run_at_center(spec, context, site.center, pseudonyms)

    return run
