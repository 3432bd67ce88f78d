"""A run on a deployed federation: submitted to its SuperLink, followed from its log."""

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from common.config import RunConfig
from common.errors import RunError
from common.events import Event, read_event, tell
from common.methods import parse_config
from common.plain import plain
from common.record import Record
from deploy.flower import ask, flwr, is_insecure, launch, toml
from deploy.interrupt import Interrupted
from deploy.live import Live

ROOT = Path(__file__).parent.parent
PACKAGES = ("common", "server", "client")
SETTLE_SECONDS = 30.0
"""How long a run may take from its last line to its final status."""


def run_remotely(config: RunConfig, superlink: str, console: Console, *, verbose: bool = False) -> Record:
    """The record of a whole run of the sites that are connected to the SuperLink of that name.

    Raises:
        ValueError: the configuration is none for real sites; one line.
        RunError: the SuperLink cannot be reached, or the run failed; what was done before is on the server's disk.
    """
    if not config.federation.sites:
        raise ValueError("federation.sites = 0: say for how many sites the server is to wait, by --sites")
    if is_insecure(superlink):
        console.print(f"WARNING: {superlink} is insecure: no TLS; anybody on the way can read and change what is sent")
    config = config.placed()
    if config.data.classes:
        classes = str(Path(config.data.classes).expanduser().absolute())
        config = config.model_copy(update={"data": config.data.model_copy(update={"classes": classes})})
    with staged(config) as folder:
        started = ask("run", str(folder), superlink, "--run-config", str(folder / "run.toml"))
    run_id = str(started["run-id"])
    console.print(
        f"run {run_id} on {superlink}; the record and the checkpoint are in {config.out} there", soft_wrap=True
    )
    try:
        record, reason = _follow(run_id, superlink, console, verbose=verbose)
    except Interrupted as stop:
        raise Interrupted(stop.number, f"the run goes on; `flwr stop {run_id} {superlink}` stops it") from None
    try:
        status = _status(run_id, superlink)
    except RunError as error:
        status, reason = "", reason or f"lost the SuperLink ({error})"
    if status == "finished:completed" and record and record.finished:
        return record
    if status and not status.startswith("finished"):
        raise RunError(f"run {run_id}: its log ended but it is {status}; `flwr log {run_id} {superlink}` follows it")
    again = f"; go on by --resume {config.out}" if record else ""
    raise RunError(f"run {run_id}: {reason or status or 'its end is unknown'}{again}")


def resume_remotely(folder: Path, superlink: str, console: Console, *, verbose: bool = False) -> Record:
    """The record of a run of real sites that was interrupted, ended as if it had not been.

    Raises:
        ValueError: there is no run in the folder; one line.
        RunError: as `run_remotely` does.
    """
    record = Record.load(folder)
    if record.finished:
        console.print(f"{folder}: is finished already")
        return record
    flat = record.config | {"resume": True, "out": str(folder.absolute())}
    return run_remotely(parse_config(flat), superlink, console, verbose=verbose)


@contextmanager
def staged(config: RunConfig) -> Iterator[Path]:
    """A folder with the app as Flower bundles it, from wherever it is installed, and the run's configuration."""
    with tempfile.TemporaryDirectory(prefix="fedmoap-") as name:
        folder = Path(name)
        for package in PACKAGES:
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        installed = Path(__file__).with_name("pyproject.toml")  # only a wheel has it here
        shutil.copy(installed if installed.exists() else ROOT / "pyproject.toml", folder / "pyproject.toml")
        (folder / "README.md").touch()
        (folder / "run.toml").write_text(toml(config.flat()), encoding="utf-8")
        yield folder


def _follow(run_id: str, superlink: str, console: Console, *, verbose: bool) -> tuple[Record | None, str]:
    """(the record as the log told it, why the run failed) once the log has ended."""
    record: Record | None = None
    reason = ""
    with launch(flwr("log", run_id, superlink, "--stream")) as process, Live(console) as live:
        try:
            for line in process.stdout or ():
                event = read_event(line)
                if event:
                    tell(event, live)
                    record, reason = _noted(event, record, reason)
                elif verbose or " is there: " in line or "refused a client" in line:
                    told = line.strip().removeprefix("INFO: ").removeprefix("WARNING: ")
                    console.print(plain(told), markup=False, highlight=False, soft_wrap=True)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    return record, reason


def _noted(event: Event, record: Record | None, reason: str) -> tuple[Record | None, str]:
    if event.kind == "started":
        return event.record, reason
    if event.kind == "failed":
        return record, event.reason
    if event.completed and record:
        rounds = [*record.rounds, event.completed]
        return record.model_copy(update={"rounds": rounds, "finished": len(rounds) == record.planned_rounds}), reason
    return record, reason


def _status(run_id: str, superlink: str) -> str:
    """The run's last status, waited for as long as it may take to settle."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        runs = ask("list", superlink, "--run-id", run_id)["runs"]
        status = str(runs[0]["status"]) if runs else ""
        if status.startswith("finished") or time.monotonic() > deadline:
            return status
        time.sleep(1.0)
