"""When a site starts the next SuperNode after one that ended, was killed or hangs."""

import os
import sys
import time
from pathlib import Path

import pytest

from deploy.supervise import UNTIL_MISSED, Trace, attend


@pytest.mark.parametrize(
    ("age", "seconds"), [(0, UNTIL_MISSED), (20, UNTIL_MISSED - 20), (UNTIL_MISSED + 1, 0), (-3600, UNTIL_MISSED)]
)
def test_a_killed_supernode_is_waited_for_until_it_is_missed(age: float, seconds: float, tmp_path: Path) -> None:
    """From its last sign of life on, and never longer, whatever the clock was set to in between."""
    trace = Trace(tmp_path / "running")
    trace.touch()
    then = time.time() - age
    os.utime(trace.path, (then, then))
    assert trace.seconds_to_wait() == pytest.approx(seconds, abs=5)


def test_one_that_ended_in_order_is_not_waited_for(tmp_path: Path) -> None:
    """Nor is one that never ran."""
    trace = Trace(tmp_path / "running")
    assert trace.seconds_to_wait() == 0
    trace.touch()
    trace.remove()
    assert trace.seconds_to_wait() == 0


def test_a_lost_gate_is_told_to_the_site_s_owner(tmp_path: Path) -> None:
    """What the ClientApp logs of lost private tensors comes through, though Flower's own log does not."""
    said: list[str] = []
    load = f"PrivateState(Path({str(tmp_path)!r})).load(3)"
    program = f"from pathlib import Path; from client.state import PrivateState; print('INFO: noise'); {load}"
    attend([sys.executable, "-c", program], Trace(tmp_path / "running"), said.append, verbose=False)
    assert len(said) == 1
    assert "round-00003.safetensors is not there, so the private tensors start anew" in said[0]


REFUSED = 'print(\'details = "{"code": 2004, "public_message": "x"}"\', flush=True)'
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.mark.parametrize(
    ("program", "reason", "stays"),
    [
        ("raise SystemExit(3)", "status 3", False),
        ("print('Exit Code: 7', flush=True)", "7", False),
        (f"{DEAF}; {REFUSED}; time.sleep(600)", "the SuperLink does not know this key", False),
        ("import os; os.kill(os.getpid(), 9)", "status -9", True),
    ],
)
def test_why_a_process_ended(program: str, reason: str, stays: bool, tmp_path: Path) -> None:
    """Its last words or its status; one that hangs when refused is ended; only a kill leaves a trace."""
    trace = Trace(tmp_path / "running")
    assert attend([sys.executable, "-c", program], trace, print, verbose=False).startswith(reason)
    assert trace.path.exists() == stays
