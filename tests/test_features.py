import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from torch import Tensor

from common.clip import FrozenClip
from common.features import encode_fresh, image_features
from tests.tiny_clip import tiny_clip


@pytest.fixture(scope="module")
def clip() -> FrozenClip:
    """A tiny CLIP."""
    return tiny_clip(dtype=torch.float32)


@pytest.fixture(scope="module")
def images() -> Dataset:
    """Eleven pictures of noise in several modes and sizes."""
    rng = np.random.default_rng(0)
    modes = ["RGB", "L", "RGBA", "P"] * 3
    pictures = [
        Image.fromarray(rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)).convert(modes[i]) for i in range(11)
    ]
    return Dataset.from_dict({"image": pictures, "label": list(range(11))}).cast_column("image", ImageFeature())


def never() -> FrozenClip:
    """A CLIP that must not be needed."""
    pytest.fail("the features are there: no CLIP is needed")


def encode(clip: Callable[[], FrozenClip], images: Dataset, cache: Path, **settings: int) -> Tensor:
    """The features in `cache`, for a CLIP and data that are named A and D."""
    return image_features(clip, "A", images, "D", cache=cache, **settings)


def test_fixed_view_against_one_by_one(clip: FrozenClip, images: Dataset, tmp_path: Path) -> None:
    """One view is the fixed preprocessing, un-normalised, in the order of the images, whatever the batch."""
    expected = torch.cat([clip.encode_images(clip.preprocess(image)[None]) for image in images["image"]])[:, None]
    for batch in (1, 4, 64):
        features = encode(lambda: clip, images, tmp_path / str(batch), batch=batch)
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


def test_stored_features_need_no_clip(clip: FrozenClip, images: Dataset, tmp_path: Path) -> None:
    """The second time the features come from disk, bit for bit, and nothing is encoded."""
    first = encode(lambda: clip, images, tmp_path, views=3)
    assert first.shape == (11, 3, 8)
    assert torch.equal(encode(never, images, tmp_path, views=3), first)


def test_random_views(clip: FrozenClip, images: Dataset, tmp_path: Path) -> None:
    """Random views differ from one another and with the seed, and the same seed gives them again."""
    first = encode(lambda: clip, images, tmp_path / "a", views=2, seed=1)
    again = encode(lambda: clip, images, tmp_path / "b", views=2, seed=1, batch=3)
    other = encode(lambda: clip, images, tmp_path / "a", views=2, seed=2)
    torch.testing.assert_close(first, again, rtol=1e-5, atol=1e-5)
    assert not torch.equal(first, other)
    assert not torch.equal(first[:, 0], first[:, 1])


def test_seed_does_not_matter_for_the_fixed_view(clip: FrozenClip, images: Dataset, tmp_path: Path) -> None:
    """The fixed view is stored once for all seeds."""
    encode(lambda: clip, images, tmp_path, seed=1)
    encode(never, images, tmp_path, seed=2)


def test_other_clip_or_data_has_other_features(clip: FrozenClip, images: Dataset, tmp_path: Path) -> None:
    """What is kept for one CLIP or data set is never taken for another."""
    image_features(lambda: clip, "A", images, "D", cache=tmp_path)
    image_features(lambda: clip, "B", images, "D", cache=tmp_path)
    image_features(lambda: clip, "A", images, "E", cache=tmp_path)
    assert len(list((tmp_path / "images").glob("*.safetensors"))) == 3


@pytest.mark.parametrize("damage", ["truncated", "longer", "foreign", "empty", "overwritten"])
def test_damaged_file_is_made_again(clip: FrozenClip, images: Dataset, tmp_path: Path, damage: str) -> None:
    """A file that is not whole, or holds features of something else, is noticed and made again."""
    expected = encode(lambda: clip, images, tmp_path).clone()
    (path,) = (tmp_path / "images").glob("*.safetensors")
    content = path.read_bytes()
    image_features(lambda: clip, "B", images, "D", cache=tmp_path / "other")
    (foreign,) = (tmp_path / "other" / "images").glob("*.safetensors")
    path.unlink()
    path.write_bytes(
        {
            "truncated": content[:-4],
            "longer": content + b"0000",
            "foreign": foreign.read_bytes(),
            "empty": b"",
            "overwritten": os.urandom(len(content)),
        }[damage]
    )
    assert torch.equal(encode(lambda: clip, images, tmp_path), expected)
    assert torch.equal(encode(never, images, tmp_path), expected)


def test_failed_encoding_leaves_nothing(clip: FrozenClip, images: Dataset, tmp_path: Path) -> None:
    """When encoding fails nothing is kept that looks like features, and the next attempt succeeds."""

    def failing() -> FrozenClip:
        raise RuntimeError("the machine is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        encode(failing, images, tmp_path)
    assert not list((tmp_path / "images").glob("*safetensors"))
    encode(lambda: clip, images, tmp_path)


def test_two_at_once_encode_once(clip: FrozenClip, images: Dataset, tmp_path: Path) -> None:
    """Of several that want the same features at once, one encodes while the others wait for it."""
    encoded = []

    def slow() -> FrozenClip:
        if threading.get_ident() not in encoded:
            encoded.append(threading.get_ident())
            time.sleep(0.3)
        return clip

    found: list[Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(encode(slow, images, tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    makers = {thread.ident for thread in threads} & set(encoded)
    assert len(makers) == 1
    assert all(torch.equal(features, found[0]) for features in found)


def test_fresh_views(clip: FrozenClip, images: Dataset) -> None:
    """Fresh views follow the generator: the same state gives the same features, the next draw others."""
    rows = np.array([3, 0, 7])
    rng = torch.Generator().manual_seed(5)
    first, second = (encode_fresh(clip, images, rows, rng) for _ in range(2))
    assert first.shape == (3, 8)
    assert not torch.equal(first, second)
    assert torch.equal(first, encode_fresh(clip, images, rows, torch.Generator().manual_seed(5)))


def test_features_are_mapped(clip: FrozenClip, images: Dataset, tmp_path: Path) -> None:
    """Stored features are pages of the file, not a copy in each process."""
    features = encode(lambda: clip, images, tmp_path)
    (path,) = (tmp_path / "images").glob("*.safetensors")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    assert path.name in maps.read_text()
    assert features.dtype == torch.float32


def test_progress_is_on_standard_error(
    clip: FrozenClip, images: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Progress is only drawn when asked for, and never on standard output."""
    encode(lambda: clip, images, tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")
    image_features(lambda: clip, "A", images, "D", cache=tmp_path, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Encoding images" in err


def test_no_views(clip: FrozenClip, images: Dataset, tmp_path: Path) -> None:
    """Fewer than one view is refused."""
    with pytest.raises(ValueError, match="views = 0: must be at least 1"):
        encode(lambda: clip, images, tmp_path, views=0)
