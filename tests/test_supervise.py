"""When a site whose SuperNode was killed starts the next one."""

import os
import time
from pathlib import Path

import pytest

from deploy.supervise import UNTIL_MISSED, Trace


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
