"""Views of images as features: one fixed, n stored at random, or a fresh one at every step."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Tensor

from common.clip import FrozenClip
from common.features import encode_fresh, image_features

Rows = Int[np.ndarray, "rows"]
Held = Int[np.ndarray, "_"]
"""Some of a data set's images, in ascending order."""


@dataclass(frozen=True)
class Stored:
    """Features of some or all of a data set's images."""

    features: Float[Tensor, "images views D"]
    rows: Held | None = None
    """Which images they are of; None where they are of all."""

    def where(self, rows: Rows) -> Int[Tensor, "rows"]:
        """Where the features of these images stand.

        Raises:
            IndexError: they were not encoded.
        """
        if self.rows is None:
            return torch.from_numpy(rows)
        places = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        if (self.rows[places] != rows).any():
            raise IndexError(f"image {rows[self.rows[places] != rows][0]} is in no client's part and was not encoded")
        return torch.from_numpy(places)


@dataclass(frozen=True)
class Views:
    """The features of a data set's images, un-normalised, as training and evaluation ask for them."""

    fixed_views: Stored
    """One view of each image, fixed preprocessing: what evaluation uses."""
    training_views: Stored | None
    """What training draws from; None where every step encodes afresh."""
    fresh: Callable[[Rows, torch.Generator], Float[Tensor, "rows D"]]

    def fixed(self, rows: Rows) -> Float[Tensor, "rows D"]:
        """Features under the fixed preprocessing."""
        return self.fixed_views.features[self.fixed_views.where(rows), 0]

    def draw(self, rows: Rows, rng: torch.Generator) -> Float[Tensor, "rows D"]:
        """Features of one training view of each row; which one, `rng` decides."""
        if self.training_views is None:
            return self.fresh(rows, rng)
        features, at = self.training_views.features, self.training_views.where(rows)
        count = features.shape[1]
        return features[at, torch.randint(count, (len(rows),), generator=rng) if count > 1 else 0]


def open_views(
    clip: Callable[[], FrozenClip],
    clip_fingerprint: str,
    images: Dataset,
    data_fingerprint: str,
    *,
    views: int | Literal["fresh"],
    seed: int,
    cache: Path,
    tested: Held | None = None,
    trained: Held | None = None,
    progress: bool = False,
) -> Views:
    """The images' views, encoded where they are not in the cache yet; `clip` is only called where it is needed.

    `tested` and `trained` are the images that are evaluated on and trained on: no others are encoded. Without them
    it is all images.
    """

    def stored(rows: Held | None, count: int) -> Stored:
        features = image_features(
            clip,
            clip_fingerprint,
            images,
            data_fingerprint,
            cache=cache,
            rows=rows,
            views=count,
            seed=seed,
            progress=progress,
        )
        return Stored(features, rows)

    def training() -> Stored | None:
        if views == "fresh":
            return None
        return fixed if views == 1 and trained is None else stored(trained, views)

    fixed = stored(tested, 1)
    return Views(fixed, training(), lambda rows, rng: encode_fresh(clip(), images, rows, rng))
