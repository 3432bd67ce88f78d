"""Small data sets on disk, and the cache that they are loaded through."""

from pathlib import Path

import numpy as np
from PIL import Image

from common.data import Task, load_task


def pixels(*key: int) -> Image.Image:
    """A small picture that depends on the key alone."""
    return Image.fromarray(np.random.default_rng(key).integers(0, 256, (10, 12, 3), dtype=np.uint8))


def paint(path: Path, *key: int) -> None:
    """That picture, in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels(*key).save(path)


def write_lines(path: Path, lines: list[str]) -> None:
    """A text list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def classes(folder: Path, names: tuple[str, ...] = ("bike", "mug"), count: int = 10) -> Path:
    """A folder per class with `count` distinct pictures each."""
    for label, name in enumerate(names):
        for number in range(count):
            paint(folder / name / f"{number:02}.png", label, number)
    return folder


def load(name: Path | str, tmp_path: Path, **options: float | str) -> Task:
    """The data set, with its cache in the test's folder."""
    return load_task(str(name), cache=str(tmp_path / "cache"), **options)
