"""A run's folder: worked on by one process at a time, its record and checkpoint whole after every round."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.config import RunConfig
from common.method import Tensors
from common.record import FILE_NAME, Record
from server.checkpoint import load_checkpoint, save_checkpoint

PLACES = {"out", "resume", "data.root", "data.cache", "data.classes", "clip.device"}
FREE = PLACES | {"federation.timeout", "federation.clients-wait"}
"""Keys that may differ in a resumed run: where things are, and who waits how long for whom."""


def earlier_run(config: RunConfig) -> Record | None:
    """The record that is to be gone on with; None for a new run.

    Raises:
        ValueError: the folder of a new run holds another; or there is none to resume, or one that was begun with other
            options; names the first.
    """
    folder = Path(config.out)
    if config.resume:
        earlier = Record.load(folder)
        given = {key: value for key, value in config.flat().items() if key not in FREE}
        check_unchanged({key: earlier.config.get(key, value) for key, value in given.items()}, given)
        return earlier
    if (folder / FILE_NAME).exists():
        raise ValueError(f"{folder}: holds another run; resume it, or name another folder")
    return None


def check_unchanged(before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Nothing, if they are equal.

    Raises:
        ValueError: they are not; names the first difference.
    """
    for name, value in now.items():
        if before[name] != value:
            raise ValueError(f"cannot resume: {name.replace('_', ' ')} was {before[name]!r} and is {value!r}")


@contextmanager
def alone(folder: Path, earlier: Record | None) -> Iterator[None]:
    """Nobody else starts or resumes a run in the folder, which is as it was when `earlier` was read.

    Raises:
        ValueError: another process is at work in it, or was meanwhile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(f"{folder}: another process is at work on the run in it") from None
    try:
        found = Record.load(folder) if (folder / FILE_NAME).exists() else None
        if _stand(found) != _stand(earlier):
            raise ValueError(f"{folder}: another process has begun a run in it or gone on with it meanwhile")
        yield
    finally:
        lock.release()


def _stand(record: Record | None) -> tuple[str, int] | None:
    return (record.run, len(record.rounds)) if record else None


def save(folder: Path, state: Tensors, record: Record) -> None:
    """The record first: of a record that is ahead of its checkpoint, a resumed run drops the last round."""
    record.save(folder)
    save_checkpoint(folder, state, round_=len(record.rounds), run=record.run)


def gone_on(folder: Path, earlier: Record, first: Tensors) -> tuple[Tensors, Record]:
    """(state, record) to go on from; the first state where the run ended before its first checkpoint."""
    if not earlier.rounds:
        return first, earlier
    state, done = load_checkpoint(folder, run=earlier.run)
    return state, earlier.model_copy(update={"rounds": earlier.rounds[:done]})
