"""Image files as they come: which can be read, what their bytes hash to, and one way to make them RGB."""

import hashlib
import io
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from datasets.utils import tqdm
from PIL import Image, ImageOps
from pydantic import TypeAdapter, ValidationError

from common.cache import once

_KEPT = TypeAdapter(tuple[list[str], dict[int, str]])
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
CHUNK = 256


@dataclass(frozen=True)
class Survey:
    """What a look at every image once has shown."""

    digests: tuple[str, ...]
    """SHA-256 of each file's bytes; empty where there is no file."""
    faults: dict[int, str]
    """Row -> why the image cannot be read."""


def to_rgb(image: Image.Image) -> Image.Image:
    """The upright RGB picture that CLIP's preprocessing expects, of any mode and size Pillow opens.

    Transparent pixels become white, 16-bit and float grey is scaled to 8 bits, the EXIF rotation is applied.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey whose values reach up to 1, 255, 65535 or whatever their largest is, as 8-bit grey."""
    values = np.asarray(image, dtype=np.float64)
    largest = float(values.max())
    top = next((limit for limit in (1.0, 255.0, 65535.0) if largest <= limit), largest)
    return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8))


def survey(data: Dataset, *, cache: str = "") -> Survey:
    """Every image of the column `image` read and decoded once; the result is kept under the cache folder.

    What is kept is found again by the files' paths, sizes and times, or by the data set's own fingerprint
    where the images stand in it, so that what has changed is looked at again.
    """
    raw = data.select_columns(["image"]).cast_column("image", ImageFeature(decode=False))
    folder = Path(cache).expanduser() if cache else Path.home() / ".cache" / "fedmoap"
    path = folder / "surveys" / f"{_key(raw)}.json"
    return once(path, lambda path: _read(path, len(raw)), lambda path: _write(path, _look_at_all(raw)))


def _read(path: Path, images: int) -> Survey | None:
    """The survey at `path`; None where there is none, or not one of so many images."""
    try:
        digests, faults = _KEPT.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return Survey(tuple(digests), faults) if len(digests) == images else None


def _write(path: Path, found: Survey) -> None:
    path.write_text(json.dumps([found.digests, found.faults]))


def _key(raw: Dataset) -> str:
    """A name for what the survey would see: changes with the images."""
    chunks = raw.data.column("image").chunks
    if any(chunk.field("bytes").null_count < len(chunk) for chunk in chunks):
        return f"set-{raw._fingerprint}"  # noqa: SLF001 - what datasets itself finds its caches by
    paths = [path for chunk in chunks for path in chunk.field("path").to_pylist()]
    return hashlib.sha256(json.dumps([paths, [_stamp(path) for path in paths]]).encode()).hexdigest()[:32]


def _stamp(path: str) -> list[int]:
    try:
        status = Path(path).stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]  # the last changes with permissions too


def _look_at_all(raw: Dataset) -> Survey:
    digests: list[str] = []
    faults: dict[int, str] = {}
    with ThreadPoolExecutor() as pool, tqdm(total=len(raw), desc="Looking at images", leave=False) as bar:
        for start in range(0, len(raw), CHUNK):
            chunk = raw[start : start + CHUNK]["image"]
            for digest, fault in pool.map(_look, chunk):
                if fault:
                    faults[len(digests)] = fault
                digests.append(digest)
            bar.update(len(chunk))
    return Survey(tuple(digests), faults)


def _look(item: dict[str, Any]) -> tuple[str, str]:
    """(digest, fault) of one stored image; the fault is empty where it can be read."""
    digest = ""
    if item["bytes"] is None and item["path"] is None:
        return digest, "holds neither bytes nor a path"
    try:
        content = item["bytes"] if item["bytes"] is not None else Path(item["path"]).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        with Image.open(io.BytesIO(content)) as image:
            image.draft("RGB", (64, 64))  # a JPEG at an eighth of its size: reads it to the end, in less time
            image.load()
            image.getexif()
    except UNREADABLE as error:
        return digest, " ".join(str(error).split()) or type(error).__name__
    return digest, ""
