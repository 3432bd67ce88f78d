"""One run simulated on this machine: Flower's simulation runtime, with Ray underneath."""

import logging
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from common.config import RunConfig
from common.errors import RunError
from common.progress import Progress
from common.record import Record

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that outlives Ray must not start it again
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

    However it ends, the server's thread is over by then, and nothing is half-written.

    Raises:
        ValueError: as `server.app.serve` does, or not one client fits on this machine.
        RunError: as `server.app.serve` does, or the simulation itself broke down.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    import ray
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.INFO if verbose else logging.CRITICAL)

    serve: Any = pkgutil.resolve_name("server.app:serve")
    client_app: Any = pkgutil.resolve_name("client.app:app")
    outcome: list[Record | Exception] = []
    servers: list[threading.Thread] = []
    over, done = threading.Event(), Future[None]()
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        servers.append(threading.current_thread())
        try:
            outcome.append(serve(_Watched(grid, over), config, progress))
        except Exception as error:  # noqa: BLE001, raised again below, in the thread that can tell the user
            outcome.append(error)

    def work() -> None:
        try:
            run_simulation(
                server_app=server_app,
                client_app=client_app,
                num_supernodes=config.partition.nodes,
                backend_config={"client_resources": {"num_cpus": cpus_per_client, "num_gpus": gpus_per_client}},
                verbose_logging=verbose,
            )
        except Exception as error:  # noqa: BLE001, raised again below
            done.set_exception(error)
        else:
            done.set_result(None)

    _start_ray(verbose=verbose)
    try:
        _check_fits(ray.cluster_resources(), cpus_per_client, gpus_per_client)
        threading.Thread(target=work, daemon=True).start()  # not in this one, which a signal may interrupt
        done.result()
    except RuntimeError as error:
        raise RunError(f"the simulation broke down: {_root(error)}") from error
    finally:
        over.set()
        for server in servers:
            server.join()  # it looks for answers every second, and may be writing the record
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


class _Watched:
    """The server's way to its clients, which raises once the simulation is over, so that nobody waits in vain."""

    def __init__(self, grid: object, over: threading.Event) -> None:
        self._grid, self._over = grid, over

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401, whatever the grid has
        if self._over.is_set():
            raise RunError("the simulation is over")
        return getattr(self._grid, name)


def _check_fits(there: Mapping[str, float], cpus: float, gpus: float) -> None:
    """Raises ValueError where this machine has too little for a single client."""
    for name, asked, found in (("cpu", cpus, there.get("CPU", 0)), ("gpu", gpus, there.get("GPU", 0))):
        if asked > found:
            raise ValueError(
                f"--{name}s-per-client {asked:g}: this machine has {found:g}, so not one client fits on it"
            )


def _root(error: BaseException) -> str:
    """What the first of a chain of exceptions says; Flower wraps twice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def _start_ray(*, verbose: bool) -> None:
    """Starts Ray, a second time where its node did not come up within Ray's own 30 seconds.

    SIGTERM, which Ray takes for itself, stays with whom it was.
    """
    import ray

    path = os.pathsep.join([entry for entry in sys.path if entry] + [os.environ.get("PYTHONPATH", "")])
    options: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.CRITICAL,
        "runtime_env": {"env_vars": {"PYTHONPATH": path, **QUIET}},
    }
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except Exception:  # noqa: BLE001, Ray raises plain Exception here
        ray.shutdown()
        ray.init(**options)
    signal.signal(signal.SIGTERM, on_sigterm)
