"""Small data sets on disk, and the cache that they are loaded through."""

from io import BytesIO
from pathlib import Path

import datasets
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


def table(path: Path, *, copies: bool = False) -> Path:
    """A parquet file of two domains that show the same 40 names, 20 of each class, as the demo's does.

    With `copies`, the picture of name 1 in the second domain is also that of name 0.
    """
    rows = [(name // 20, domain, name) for domain in range(2) for name in range(40)]
    held: dict[str, list[object]] = {"image": [], "label": [], "domain": [], "name": []}
    for label, domain, name in rows:
        png = BytesIO()
        pixels(domain, 0 if copies and domain and name == 1 else name).save(png, "PNG")
        for column, value in zip(held, ({"bytes": png.getvalue()}, label, domain, f"n{name}"), strict=True):
            held[column].append(value)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["mammal", "bird"]),
            "domain": datasets.ClassLabel(names=["line art", "flat"]),
            "name": datasets.Value("string"),
        }
    )
    datasets.Dataset.from_dict(held, features=features).to_parquet(path)
    return path
