"""How a run ends when it is asked to: Ctrl-C, or the SIGTERM of a machine that shuts down."""

import os
import signal
import sys
import threading
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 10.0
"""Seconds from the signal to the process's end at the latest."""


class Interrupted(BaseException):
    """A signal asked us to end; the message is one line for the user."""

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__("interrupted" + (f"; {advice}" if advice else ""))
        self.number = number

    @property
    def status(self) -> int:
        """What a shell says of a process that the signal ended: 130 after Ctrl-C."""
        return 128 + self.number


def heed_signals() -> None:
    """Has SIGINT or SIGTERM raise `Interrupted` in the main thread, once: what follows it is cut short by nothing.

    One that is ignored, as SIGINT is by a shell's background jobs, stays ignored.
    """
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def end_now(status: int) -> NoReturn:
    """Ends the process and all that it started.

    Without what Python does at exit: Ray, interrupted while it starts or works, hangs or crashes there.
    """
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    for child in descendants(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    os._exit(status)


def heed_no_more() -> None:
    """From here on neither signal cuts anything short."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    heed_no_more()
    stop = Interrupted(number)
    watchdog = threading.Timer(GRACE, end_now, (stop.status,))
    watchdog.daemon = True
    watchdog.start()
    raise stop


def descendants(ancestor: int) -> list[int]:
    """The process's children and theirs; none where there is no /proc, and Ray's own reaper has to do."""
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            children[int(parent)].append(int(path.parent.name))
    found = [ancestor]
    for each in found:
        found += children[each]
    return found[1:]
