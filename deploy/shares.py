"""The shares of a partition as real sites hold them: folders of pictures, to try a deployment with known data."""

import io
import tempfile
from collections.abc import Collection
from pathlib import Path

from datasets import Image as ImageFeature
from jaxtyping import Int
from numpy import ndarray
from PIL import Image

from common.assignment import Assignment
from common.config import nearest
from common.data import Task
from common.listing import TEST, TRAIN


def write_shares(task: Task, assignment: Assignment, folder: Path, only: Collection[str] = ()) -> list[Path]:
    """CLIENT/train/CLASS/… and CLIENT/test/CLASS/… for these clients, or all: what `flower-client --data` takes.

    Images are written as they are, byte for byte.

    Raises:
        ValueError: no such client, a share that is there already, or a class whose name cannot be a folder's.
    """
    for name in only:
        if name not in assignment.names:
            hint = nearest(name, list(assignment.names))
            raise ValueError(f"--client {name!r}: clients are {', '.join(assignment.names)}{hint}")
    for name in task.class_names:
        if "/" in name or name.startswith("."):
            raise ValueError(f"class {name!r} cannot be the name of a folder")
    parts = dict(zip(assignment.names, assignment.parts, strict=True))
    shares = {folder / name: part for name, part in parts.items() if not only or name in only}
    for share in shares:
        if share.exists():
            raise ValueError(f"{share}: is there already")
    folder.mkdir(parents=True, exist_ok=True)
    for share, part in shares.items():
        with tempfile.TemporaryDirectory(prefix=f".{share.name}.", dir=folder) as name:
            beside = Path(name) / share.name  # so that a share is whole or not there
            for kind, rows in ((TRAIN, part.train), (TEST, part.test)):
                _write_images(task, rows, beside / kind)
            beside.rename(share)
    return list(shares)


def _write_images(task: Task, rows: Int[ndarray, "rows"], folder: Path) -> None:
    data = task.data.select(rows).cast_column("image", ImageFeature(decode=False))
    for row, item in zip(rows.tolist(), data, strict=True):
        content = item["image"]["bytes"] or Path(item["image"]["path"]).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            ending = str(image.format).lower()
        path = folder / task.class_names[item["label"]] / f"{row:06d}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
