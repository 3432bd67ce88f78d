"""What training and evaluation draw from a data set's images, and which images are encoded for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from safetensors import safe_open
from torch import Tensor

from common.config import Scalar
from common.methods import parse_config
from common.views import Views, open_views
from common.world import assignment_of, task_of, views_of
from tests.folders import pixels
from tests.tiny_clip import tiny_clip

CLIP = tiny_clip(dtype=torch.float32)
EVERY = np.arange(6)


@pytest.fixture(scope="module")
def images() -> Dataset:
    """Six pictures."""
    return Dataset.from_dict({"image": [pixels(n) for n in range(6)]}).cast_column("image", ImageFeature())


def opened(images: Dataset, cache: Path, **options: object) -> Views:
    """Their views."""
    given = {"views": 1, "seed": 0} | options
    return open_views(lambda: CLIP, "A", images, "D", cache=cache, **given)


def drawn(views: Views, seed: int = 0) -> Tensor:
    """One training view of each picture."""
    return views.draw(EVERY, torch.Generator().manual_seed(seed))


def test_one_view_is_the_fixed_one(images: Dataset, tmp_path: Path) -> None:
    """With one view training draws what evaluation uses."""
    views = opened(images, tmp_path)
    assert torch.equal(drawn(views), views.fixed(EVERY))


def test_stored_views_are_drawn_from_evenly(images: Dataset, tmp_path: Path) -> None:
    """With n views each draw is one of them, which one the generator decides, and all come up; evaluation uses none."""
    views = opened(images, tmp_path, views=3)
    assert views.training_views is not None
    stored = views.training_views.features
    draws = torch.stack([drawn(views, seed) for seed in range(40)])
    which = (draws[:, :, None] == stored).all(-1)
    assert (which.sum(-1) == 1).all()
    assert which.any(0).all()
    assert torch.equal(drawn(views, 5), drawn(views, 5))
    assert not (views.fixed(EVERY)[:, None] == stored).all(-1).any()


def test_fresh_views_are_new_at_every_step(images: Dataset, tmp_path: Path) -> None:
    """No two draws are alike, and the generator decides them."""
    views, rng = opened(images, tmp_path, views="fresh"), torch.Generator().manual_seed(0)
    first, second = views.draw(EVERY, rng), views.draw(EVERY, rng)
    assert (first != second).any(-1).all()
    torch.testing.assert_close(drawn(views), first)
    assert not torch.equal(first, views.fixed(EVERY))


@pytest.mark.parametrize("count", [1, 2])
def test_a_part_s_views_are_those_of_the_whole(images: Dataset, tmp_path: Path, count: int) -> None:
    """Which other images are encoded changes no view; one that was not is asked for in vain."""
    whole = opened(images, tmp_path / "whole", views=count)
    tested, trained = np.array([1, 4]), np.array([0, 2, 5])
    part = opened(images, tmp_path / "part", views=count, tested=tested, trained=trained)
    torch.testing.assert_close(part.fixed(tested[::-1].copy()), whole.fixed(tested[::-1].copy()))
    rows = np.array([5, 0, 5, 2])
    ours, theirs = (views.draw(rows, torch.Generator().manual_seed(3)) for views in (part, whole))
    torch.testing.assert_close(ours, theirs)
    for ask in (part.fixed, lambda rows: part.draw(rows, torch.Generator())):
        with pytest.raises(IndexError, match="image 3 is in no client's part"):
            ask(np.array([3]))


@pytest.mark.parametrize(
    ("options", "stores"),
    [
        ({}, {("all", 1)}),
        ({"data.shots": 2}, {("tested", 1), ("trained", 1)}),
        ({"data.views": 2}, {("tested", 1), ("trained", 2)}),
        ({"data.views": "fresh"}, {("tested", 1)}),
    ],
)
def test_only_what_is_used_is_encoded(
    settings: dict[str, Scalar], tmp_path: Path, options: dict[str, Scalar], stores: set[tuple[str, int]]
) -> None:
    """Few shots, stored and fresh views encode the images of somebody's part; the fixed view alone, all of them."""
    config = parse_config(settings | options | {"data.cache": str(tmp_path)})
    views_of(config, task_of(config))
    parts = assignment_of(config).parts
    counts = {"tested": sum(len(part.test) for part in parts), "trained": sum(len(part.train) for part in parts)}
    counts["all"] = len(task_of(config).data)
    found = set()
    for path in (tmp_path / "images").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found.add(tuple(file.get_slice("features").get_shape()[:2]))
    assert found == {(counts[name], views) for name, views in stores}
