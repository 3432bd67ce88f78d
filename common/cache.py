"""Files that many processes want and one makes."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from common.atomic import replacing

T = TypeVar("T")


def once(path: Path, read: Callable[[Path], T | None], make: Callable[[Path], object]) -> T:
    """What `read` finds at `path`; where that is None, one process makes the file and the others wait.

    Raises:
        OSError: what was written cannot be read back.
    """
    if (found := read(path)) is not None:
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if (found := read(path)) is not None:
            return found
        with replacing(path) as beside:
            make(beside)
        if (found := read(path)) is None:
            raise OSError(f"{path} was written and cannot be read back")
    return found
