"""Image features, encoded once and kept on disk, where all processes of a machine share them."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.cache import once
from common.clip import FrozenClip
from common.seeding import generator

FORMAT = 1  # counts up when the same images and CLIP would give other features


def image_features(
    clip: Callable[[], FrozenClip],
    fingerprint: str,
    images: Dataset,
    data_fingerprint: str,
    *,
    cache: Path,
    rows: Int[np.ndarray, "rows"] | None = None,
    views: int = 1,
    seed: int = 0,
    batch: int = 64,
    progress: bool = False,
) -> Float[Tensor, "images views D"]:
    """Features of the images, un-normalised, memory-mapped: the fixed view or `views` random ones of each.

    Of those in these `rows`, where they are given, in that order; which others there are changes no view.
    Encoded by one process where they are not in the cache, while others wait; `clip` is only called then.
    `fingerprint` is that CLIP's `feature_fingerprint`. No more than a batch is ever held in memory.

    Raises:
        ValueError: fewer than one view is asked for.
    """
    if views < 1:
        raise ValueError(f"views = {views}: must be at least 1")
    key = {"format": FORMAT, "clip": fingerprint, "data": data_fingerprint, "views": views}
    key |= {"seed": seed} if views > 1 else {}
    key |= {"rows": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()} if rows is not None else {}
    about = {"key": json.dumps(key, sort_keys=True)}
    name = hashlib.sha256(about["key"].encode()).hexdigest()[:32]

    pictures, at_once = images.select_columns(["image"]), max(1, batch // views)
    wanted = range(len(images)) if rows is None else rows.tolist()

    def pixels(index: int) -> list[Tensor]:
        image = pictures[index]["image"]
        if views == 1:
            return [clip().preprocess(image)]
        return [clip().augment(image, generator(seed, "view", index, view).initial_seed()) for view in range(views)]

    def make(path: Path) -> None:
        shape = (len(wanted), views, clip().embed_dim)
        starts = range(0, len(wanted), at_once)
        console = Console(stderr=True)
        _ = clip().images  # opened here, once, and not by the first threads that want it
        with path.open("wb") as file, ThreadPoolExecutor() as pool:
            file.write(_header(about, shape))
            for start in track(starts, "Encoding images", console=console, disable=not progress):
                some = wanted[start : start + at_once]
                features = _encode(clip(), [view for part in pool.map(pixels, some) for view in part])
                file.write(features.cpu().numpy().tobytes())

    return once(cache / "images" / f"{name}.safetensors", lambda path: _mapped(path, about, len(wanted)), make)


def encode_fresh(
    clip: FrozenClip,
    images: Dataset,
    rows: Int[np.ndarray, "rows"],
    rng: torch.Generator,
) -> Float[Tensor, "rows D"]:
    """Features of a new random view of each of these images, not normalised, on the CLIP's device."""
    seeds = torch.randint(2**62, (len(rows),), generator=rng).tolist()
    _ = clip.images  # as above
    with ThreadPoolExecutor() as pool:
        views = list(pool.map(lambda row, seed: clip.augment(images[row]["image"], seed), rows.tolist(), seeds))
    return _encode(clip, views)


def _encode(clip: FrozenClip, pixels: Sequence[Tensor]) -> Float[Tensor, "images D"]:
    return clip.encode_images(torch.stack(list(pixels))).float()


def _header(about: Mapping[str, str], shape: Sequence[int]) -> bytes:
    """How a safetensors file of float32 features starts; the library itself writes from memory only."""
    entry = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 4 * math.prod(shape)]}
    header = json.dumps({"__metadata__": about, "features": entry}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _mapped(path: Path, about: Mapping[str, str], images: int) -> Tensor | None:
    """The features at `path`, mapped into memory; None where there are none, or not all, or others."""
    try:
        with safe_open(path, "pt") as file:
            features = file.get_tensor("features") if file.metadata() == about else None
    except (OSError, SafetensorError):
        return None
    return features if features is not None and len(features) == images else None
