"""Runs that do not come to their end: Ctrl-C, SIGTERM, a machine that is too small, a simulation that breaks down."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.record import Record
from tests.deployment import rounds_done, wait_for
from tests.test_simulation import resumed

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")]
SOON = 30.0
"""Seconds; the process gives itself ten, and a busy machine is slow to end many others."""
Start = Callable[[list[str]], "subprocess.Popen[str]"]


def arguments(settings: dict[str, Any], command: str, *more: str) -> list[str]:
    sets = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    return [sys.executable, "-m", "deploy.cli", command, *sets, *more]


@pytest.fixture
def start(quiet_environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts a command as a terminal does: in a process group of its own, and not deaf to Ctrl-C."""
    started: list[subprocess.Popen[str]] = []

    def run(command: list[str]) -> "subprocess.Popen[str]":
        started.append(
            subprocess.Popen(
                command,
                env=quiet_environment | {"TEST_MARK": str(tmp_path)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                process_group=0,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509, one system call
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def alive(mark: str) -> list[str]:
    """The processes that were started, by whomever, below the one with this mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"TEST_MARK={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def wait_for_rounds(folder: Path, count: int, process: "subprocess.Popen[str]") -> None:
    wait_for(lambda: rounds_done(folder) >= count, 200, process, every=0.02)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_soon_and_can_be_resumed(
    number: signal.Signals,
    status: int,
    settings: dict[str, Any],
    start: Start,
    quiet_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """One line says how to go on; no process and no half-written file is left; the resumed run comes to its end."""
    out = tmp_path / "run"
    process = start(arguments(settings, "run", "--out", str(out)))
    wait_for_rounds(out, 1, process)
    begun = time.monotonic()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as the terminal does
        os.killpg(process.pid, number)  # a second one changes nothing
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - begun < SOON
    assert process.returncode == status
    assert said.splitlines()[-1] == f"interrupted; go on by --resume {out}"
    assert "Traceback" not in said
    assert alive(str(tmp_path)) == []
    assert {path.name for path in out.iterdir()} == {"record.json", "checkpoint.safetensors", "private", ".lock"}
    assert not Record.load(out).finished
    assert resumed(out, quiet_environment).finished


def test_a_comparison_stops_at_the_run_that_is_interrupted(
    settings: dict[str, Any], start: Start, tmp_path: Path
) -> None:
    """Ctrl-C ends the command, not only the run that it has come to."""
    command = arguments(settings, "compare", "--methods", "promptfl,coop", "--out", str(tmp_path))
    process = start(command)
    wait_for_rounds(tmp_path / "promptfl-seed0", 1, process)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == f"interrupted; go on by --resume {tmp_path / 'promptfl-seed0'}"
    assert alive(str(tmp_path)) == []
    assert not (tmp_path / "coop-seed0").exists()


def wait_for_handlers(process: "subprocess.Popen[str]") -> None:
    """Until Python has taken SIGTERM, which it does not of itself."""
    deadline = time.monotonic() + 100
    caught = 0
    while not caught & 1 << (signal.SIGTERM - 1):
        assert time.monotonic() < deadline
        status = (Path("/proc") / str(process.pid) / "status").read_text()
        caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), 16)
        time.sleep(0.02)


@pytest.mark.parametrize("pause", [0.0, 3.0, 6.0])
def test_a_run_that_is_only_starting_can_be_interrupted(
    pause: float, settings: dict[str, Any], start: Start, tmp_path: Path
) -> None:
    """Whatever it is doing, opening data or starting Ray, the process ends soon, with all that it started."""
    out = tmp_path / "run"
    process = start(arguments(settings, "run", "--out", str(out)))
    wait_for_handlers(process)
    time.sleep(pause)
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - begun < SOON
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in said
    assert alive(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("option", "asked"), [("--gpus-per-client", "64"), ("--cpus-per-client", "4096")], ids=["gpus", "cpus"]
)
def test_a_client_that_does_not_fit_is_refused(
    option: str, asked: str, settings: dict[str, Any], quiet_environment: dict[str, str], tmp_path: Path
) -> None:
    """One line names the option, what was asked and what there is; nothing is waited for."""
    command = arguments(settings, "run", "--out", str(tmp_path), option, asked)
    done = subprocess.run(command, capture_output=True, text=True, env=quiet_environment, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {option} {asked}: this machine has ")
    assert done.stderr.count("\n") == 1


def test_a_simulation_that_breaks_down_ends_the_run(
    settings: dict[str, Any], quiet_environment: dict[str, str], tmp_path: Path
) -> None:
    """Where Flower's simulation fails, here for want of any client, the server does not wait for its clients."""
    unchecked = "from deploy import cli, simulate; simulate._check_fits = lambda *given: None; import sys; cli.main()"
    command = arguments(settings, "run", "--out", str(tmp_path), "--cpus-per-client", "4096")
    done = subprocess.run(
        [sys.executable, "-c", unchecked, *command[3:]],
        capture_output=True,
        text=True,
        env=quiet_environment,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the simulation broke down: ")
    assert done.stderr.count("\n") == 1
