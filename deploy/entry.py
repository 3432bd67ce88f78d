"""How a console script ends: well, or with one line and a status that is not 0."""

import os
import sys
from collections.abc import Callable

from common.errors import RunError
from common.plain import plain
from deploy.interrupt import Interrupted, end_now, heed_signals


def run_command(command: Callable[[], None]) -> None:
    """Runs the command; whatever goes wrong ends in one line and status 1, Ctrl-C in one and 130, SIGTERM in 143.

    `--verbose`, where the command has it, and FEDMOAP_DEBUG in the environment ask for the whole traceback.
    """
    heed_signals()
    try:
        command()
    except Interrupted as stop:
        sys.stderr.write(f"{stop}\n")
        end_now(stop.status)
    except Exception as error:
        if "--verbose" in sys.argv or os.environ.get("FEDMOAP_DEBUG"):
            raise
        expected = isinstance(error, ValueError | RunError)
        told = str(error) if expected else f"{type(error).__name__}: {error} (FEDMOAP_DEBUG=1 shows where)"
        sys.stderr.write(f"error: {plain(told)}\n")
        sys.exit(1)
