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

Stored = Float[Tensor, "images views D"]
Rows = Int[np.ndarray, "rows"]


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
        return self.fixed_views[torch.from_numpy(rows), 0]

    def draw(self, rows: Rows, rng: torch.Generator) -> Float[Tensor, "rows D"]:
        """Features of one training view of each row; which one, `rng` decides."""
        if self.training_views is None:
            return self.fresh(rows, rng)
        count = self.training_views.shape[1]
        if count == 1:
            return self.training_views[torch.from_numpy(rows), 0]
        return self.training_views[torch.from_numpy(rows), torch.randint(count, (len(rows),), generator=rng)]


def open_views(
    clip: Callable[[], FrozenClip],
    clip_fingerprint: str,
    images: Dataset,
    data_fingerprint: str,
    *,
    views: int | Literal["fresh"],
    seed: int,
    cache: Path,
    progress: bool = False,
) -> Views:
    """The images' views, encoded where they are not in the cache yet; `clip` is only called where it is needed."""

    def stored(count: int) -> Stored:
        return image_features(
            clip,
            clip_fingerprint,
            images,
            data_fingerprint,
            cache=cache,
            views=count,
            seed=seed,
            progress=progress,
        )

    fixed = stored(1)
    training = {"fresh": None, 1: fixed}.get(views) if views in ("fresh", 1) else stored(int(views))
    return Views(fixed, training, lambda rows, rng: encode_fresh(clip(), images, rows, rng))
