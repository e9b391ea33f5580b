"""The executor that the configuration asks for."""

from __future__ import annotations

import os
import sys

from cluster.executor.inprocess import InProcessExecutor
from cluster.executor.lasting import LastingExecutor
from cluster.executor.protocol import Executor
from cluster.service.config import ExecutorConfig
from doseeng.errors import ConfigError


def open_executor(config: ExecutorConfig) -> Executor:
    """The executor of a configuration; Ray is imported only when it is asked for.

    ConfigError: Ray is not installed, or the cluster that was named cannot be reached or refuses the token.
    """
    if config.kind == "in-process":
        return InProcessExecutor()
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        raise ConfigError(
            "Ray was imported before doseeng could switch its authentication on; let `open_executor` be what imports it"
        )
    from cluster.executor.ray_settings import is_loopback, passing_token, prepare_environment

    host = config.address.rpartition(":")[0]
    prepare_environment(stays_here=not config.address or is_loopback(host))
    if not config.address:
        passing_token()
    try:
        from cluster.executor.ray_executor import open_ray
    except ModuleNotFoundError as error:
        raise ConfigError("executor.kind is 'ray', but Ray is not installed; install 'doseeng[ray]'") from error
    return LastingExecutor(lambda: open_ray(config))
