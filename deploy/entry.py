"""How a console script ends: well, or with one line and status 1."""

import os
import sys
from collections.abc import Callable

from common.errors import RunError
from common.plain import plain


def run_command(command: Callable[[], None]) -> None:
    """Runs the command; whatever goes wrong ends in one line and status 1.

    `--verbose`, where the command has it, and FEDMOAP_DEBUG in the environment ask for the whole traceback.
    """
    try:
        command()
    except Exception as error:
        if "--verbose" in sys.argv or os.environ.get("FEDMOAP_DEBUG"):
            raise
        expected = isinstance(error, ValueError | RunError)
        told = str(error) if expected else f"{type(error).__name__}: {error} (FEDMOAP_DEBUG=1 shows where)"
        sys.stderr.write(f"error: {plain(told)}\n")
        sys.exit(1)
