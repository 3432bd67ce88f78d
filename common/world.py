"""What a configuration names, opened once in a process: the data set, who holds what, the CLIP, the features."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from common.assignment import Assignment, Rows
from common.clip import FrozenClip, load_clip
from common.config import ClipOptions, DataOptions, PartitionOptions, RunConfig
from common.data import Task, load_task
from common.holdout import with_unseen, with_validation
from common.views import Views, open_views


def cache_folder(option: str) -> Path:
    """Where encoded features are kept: the option, or ~/.cache/fedmoap."""
    return Path(option).expanduser() if option else Path.home() / ".cache" / "fedmoap"


def device_of(option: str) -> str:
    """The device that the option names; `auto` is the first CUDA device where there is one, else the CPU.

    Raises:
        ValueError: it is not there; says what is.
    """
    if option == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if option in there or (option == "cuda" and len(there) > 1):
        return option
    raise ValueError(f"clip.device = {option!r}: is not here; there is {', '.join(there)}")


def task_of(config: RunConfig) -> Task:
    """The data set."""
    return _task(config.data, config.seed)


def read_classes(path: str) -> tuple[str, ...]:
    """The class names in a file, one a line, in its order; empty lines are left out.

    Raises:
        ValueError: it cannot be read, or holds no name or one twice; names the file.
    """
    try:
        names = [line.strip() for line in Path(path).expanduser().read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data.classes = {path!r}: cannot be read ({error})") from None
    names = [name for name in names if name]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"data.classes = {path!r}: holds {twice[0]!r} twice")
    if not names:
        raise ValueError(f"data.classes = {path!r}: holds no class name")
    return tuple(names)


def domains_of(config: RunConfig, names: Sequence[str]) -> tuple[str, ...]:
    """Of these domains, those that clients train on: all but the unseen one."""
    return tuple(name for name in names if name != config.partition.unseen)


def assignment_of(config: RunConfig) -> Assignment:
    """Who holds what in a simulated federation."""
    return _assignment(config.data, config.partition, config.seed)


def clip_of(config: RunConfig) -> FrozenClip:
    """The frozen CLIP, on its device."""
    return _clip(config.clip, config.data.cache)


def views_of(config: RunConfig, task: Task, *, progress: bool = False) -> Views:
    """The data set's images as features, encoded where they are not in the cache yet.

    Of all images, which is the same for every seed and partition; or, where a simulated federation would leave most
    of that unused, of those that somebody tests or trains on.
    """
    tested, trained = None, None
    if not config.federation.sites and (config.data.shots or config.data.views != 1):
        tested, trained = _in_use(assignment_of(config))
    return open_views(
        lambda: clip_of(config),
        clip_of(config).feature_fingerprint,
        task.data,
        task.content,
        views=config.data.views,
        seed=config.seed,
        cache=cache_folder(config.data.cache),
        tested=tested,
        trained=trained,
        progress=progress,
    )


def _in_use(assignment: Assignment) -> tuple[Rows, Rows]:
    """(images that are evaluated on, images that are trained on), by anybody, in ascending order."""
    tested = [rows for part in assignment.parts for rows in (part.test, part.validation)]
    trained = [part.train for part in assignment.parts]
    return np.unique(np.concatenate(tested)), np.unique(np.concatenate(trained))


@lru_cache(maxsize=4)
def _task(data: DataOptions, seed: int) -> Task:
    return load_task(
        data.name,
        root=data.root,
        seed=seed,
        test_share=data.test_share,
        broken_share=data.broken_share,
        cache=data.cache,
    )


@lru_cache(maxsize=4)
def _assignment(data: DataOptions, options: PartitionOptions, seed: int) -> Assignment:
    from common.partition import partition  # the partitioners bring matplotlib, and a real site needs none

    task = _task(data, seed)
    assignment = partition(
        task,
        options.kind,
        options.clients,
        alpha=options.alpha,
        seed=seed,
        shots=data.shots,
        unseen=options.unseen,
    )
    if options.unseen:
        assignment = with_unseen(assignment, task, options.unseen)
    if data.validation_share:
        assignment = with_validation(assignment, task, data.validation_share, seed)
    return assignment


@lru_cache(maxsize=2)
def _clip(options: ClipOptions, cache: str) -> FrozenClip:
    device = device_of(options.device)
    bf16 = options.precision == "bf16" and device != "cpu"
    return load_clip(options.model, options.pretrained, device=device, cache=cache_folder(cache), bf16=bf16)
