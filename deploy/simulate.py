"""One run simulated on this machine: Flower's simulation runtime, with Ray underneath."""

import logging
import os
import pkgutil
import sys
from typing import Any

from common.config import RunConfig
from common.progress import Progress
from common.record import Record

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def simulate(
    config: RunConfig,
    progress: Progress,
    *,
    cpus_per_client: float = 1.0,
    gpus_per_client: float = 0.0,
    verbose: bool = False,
) -> Record:
    """The record of the whole run, every client of which takes its share of this machine.

    Raises:
        ValueError, RunError: as `server.app.serve` does.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.INFO if verbose else logging.CRITICAL)

    serve: Any = pkgutil.resolve_name("server.app:serve")
    client_app: Any = pkgutil.resolve_name("client.app:app")
    records: list[Record] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        records.append(serve(grid, config, progress))

    _start_ray(verbose=verbose)
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=config.partition.nodes,
        backend_config={"client_resources": {"num_cpus": cpus_per_client, "num_gpus": gpus_per_client}},
        verbose_logging=verbose,
    )
    return records[0]


def _start_ray(*, verbose: bool) -> None:
    """Starts Ray, a second time where its node did not come up within Ray's own 30 seconds."""
    import ray

    path = os.pathsep.join([entry for entry in sys.path if entry] + [os.environ.get("PYTHONPATH", "")])
    options: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.CRITICAL,
        "runtime_env": {"env_vars": {"PYTHONPATH": path, **QUIET}},
    }
    try:
        ray.init(**options)
    except Exception:  # noqa: BLE001, Ray raises plain Exception here
        ray.shutdown()
        ray.init(**options)
