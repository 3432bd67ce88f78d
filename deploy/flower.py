"""Flower's own commands, called as a user would: the only door from the commands to a SuperLink."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import Scalar
from common.errors import RunError

Process = subprocess.Popen[str]
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PYTHONUNBUFFERED": "1"}


def environment() -> dict[str, str]:
    """This process's environment, with Flower quiet and its commands, which start one another, on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return QUIET | dict(os.environ) | {"PATH": path}


def flwr(*arguments: str) -> list[str]:
    """The command line of `flwr` in this environment."""
    return [sys.executable, "-m", "flwr.cli.app", *arguments]


def launch(command: Sequence[str], **options: Any) -> Process:  # noqa: ANN401, those of Popen
    """A process of Flower's whose output, errors among it, is read line by line."""
    return subprocess.Popen(  # noqa: S603, the commands are ours
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment(),
        **options,
    )


def toml(flat: Mapping[str, Scalar]) -> str:
    """A flat mapping as Flower reads it from a file."""
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in flat.items())


def is_insecure(superlink: str) -> bool:
    """Whether Flower's config.toml has the SuperLink of that name talked to without TLS.

    Raises:
        RunError: it has none of that name.
    """
    from click import ClickException
    from flwr.cli.flower_config import read_superlink_connection

    try:
        return read_superlink_connection(superlink).insecure
    except ClickException as error:
        raise RunError(" ".join(error.message.split())) from None


def ask(*arguments: str) -> Mapping[str, Any]:
    """What a `flwr` command answers in JSON.

    Raises:
        RunError: it failed; its reason in one line.
    """
    done = subprocess.run(  # noqa: S603, the arguments are ours
        flwr(*arguments, "--format", "json"),
        capture_output=True,
        text=True,
        env=environment(),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    start = done.stdout.find("{")
    try:
        answer = json.loads(done.stdout[start:]) if start >= 0 else {}
    except json.JSONDecodeError:
        answer = {}
    if done.returncode == 0 and answer.get("success"):
        return dict(answer)
    said = answer.get("error-message") or _last(done.stderr) or _last(done.stdout) or f"status {done.returncode}"
    raise RunError(f"flwr {' '.join(arguments[:2])}: {' '.join(str(said).split())}")


def _last(text: str) -> str:
    """The last line that says something; Click draws boxes around errors."""
    lines: Sequence[str] = [line.strip(" │╭╰─╮╯") for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")
