"""From which code, with which libraries, on which machine."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from common import __version__
from common.record import Provenance

_LIBRARIES = ("flwr", "torch", "open_clip_torch", "datasets", "flwr-datasets", "numpy")


def provenance(device: str) -> Provenance:
    """Commit and dirty flag (none where the code is no git checkout), versions, device, time in UTC."""
    commit = _git("rev-parse", "HEAD")
    versions = {"fedmoap": __version__, "python": platform.python_version()}
    return Provenance(
        commit=commit,
        dirty=bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None,
        versions=versions | {library: version(library) for library in _LIBRARIES},
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603, fixed arguments
            ["git", *arguments],  # noqa: S607, whichever git is there
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
