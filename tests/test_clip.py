import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file

from common.clip import FrozenClip, load_clip
from common.text import PromptEncoder
from common.tower import TextTower
from tests.tiny_clip import TinyTokenizer, tiny_clip, tiny_model

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
TEXTS = ["a photo of a cat.", "a photo of a dog."]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny CLIP in a folder of its own, as open_clip keeps one."""
    place = tmp_path / "model"
    place.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(open_clip.CLIP(**TINY).state_dict(), place / "open_clip_model.safetensors")
    (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    return place


@pytest.fixture
def tiny_architecture(tmp_path: Path) -> str:
    """An architecture that open_clip knows by name."""
    (tmp_path / "tiny-test.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "tiny-test.json")
    return "tiny-test"


def picture(mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_features_against_open_clip() -> None:
    """Image features are open_clip's, un-normalised, and no parameter is trainable afterwards."""
    model: Any = tiny_model()
    clip = FrozenClip.from_open_clip(model, TinyTokenizer(40))
    pixels = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(clip.encode_images(pixels), model.encode_image(pixels), rtol=0, atol=0)
    assert clip.logit_scale == pytest.approx(float(model.logit_scale.exp()))
    assert clip.parameters == sum(p.numel() for p in model.parameters())
    assert not any(p.requires_grad for p in model.parameters())


def test_preprocessing_against_open_clip(folder: Path) -> None:
    """A picture's pixels are those of open_clip's own preprocessing of it."""
    name = f"local-dir:{folder}"
    theirs = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(size=32), is_train=False)
    torch.testing.assert_close(load_clip(name).preprocess(picture()), theirs(picture()), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1", "LA"])
def test_any_picture_has_pixels(mode: str) -> None:
    """Pictures of any mode become pixels of the model's size, fixed and at random."""
    clip = tiny_clip()
    assert clip.preprocess(picture(mode)).shape == clip.augment(picture(mode), 0).shape == (3, 16, 16)


def test_augmentation_depends_on_the_seed_alone() -> None:
    """One seed gives one view, another another one, whatever was drawn before; no other draws change."""
    clip = tiny_clip()
    state = torch.get_rng_state()
    first = clip.augment(picture(), 1)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(first, clip.augment(picture(), 1))
    assert not torch.equal(first, clip.augment(picture(), 2))
    flat = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (200, 1)))
    rising = [bool(view[0, 0, -1] > view[0, 0, 0]) for view in (clip.augment(flat, seed) for seed in range(60))]
    assert 15 < sum(rising) < 45


def test_fingerprint_tells_models_apart() -> None:
    """The fingerprint is the same for equal models and differs with any weight, setting or preprocessing."""
    base = tiny_clip().fingerprint
    assert tiny_clip().fingerprint == base
    changed = tiny_model()
    next(changed.visual.parameters()).data.flatten()[0] += 1e-9
    other_pixels = tiny_model()
    cfg = open_clip.get_model_preprocess_cfg(other_pixels) | {"mean": (0.4, 0.5, 0.5)}
    open_clip.set_model_preprocess_cfg(other_pixels, cfg)
    others = [
        tiny_clip(seed=1).fingerprint,
        tiny_clip(heads=4).fingerprint,
        tiny_clip(quick_gelu=True).fingerprint,
        tiny_clip(text={"norm_kwargs": {"eps": 1e-6}}).fingerprint,
        *(FrozenClip.from_open_clip(m, TinyTokenizer(40)).fingerprint for m in (changed, other_pixels)),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_known_clip_is_not_opened_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second time on the text side comes from the cache, mapped, and is exactly the same."""
    name, cache = f"local-dir:{folder}", tmp_path / "cache"
    first = load_clip(name, cache=cache)
    whole = load_clip(name)
    texts = first.encode_texts(TEXTS)
    torch.testing.assert_close(texts, whole.encode_texts(TEXTS), rtol=0, atol=0)
    monkeypatch.setattr("common.pretrained.open_clip_model", None)
    again = load_clip(name, cache=cache)
    assert again.facts == whole.facts
    assert isinstance(again.text, TextTower)
    assert torch.equal(again.encode_texts(TEXTS), texts)
    with pytest.raises(TypeError):
        again.encode_images(torch.zeros(1, 3, 32, 32))


def test_known_clip_needs_no_open_clip(folder: Path, tmp_path: Path) -> None:
    """A process with a known CLIP and known class names encodes prompts without importing open_clip."""
    program = """
import sys, torch
from pathlib import Path
from common.clip import load_clip
from common.text import PromptEncoder
clip = load_clip(sys.argv[1], cache=Path(sys.argv[2]))
PromptEncoder(clip, ["cat", "dog"], 4)(torch.zeros(4, 16))
clip.encode_texts(["a cat"])
assert ("open_clip" in sys.modules) == (sys.argv[3] == "first"), sorted(sys.modules)
"""
    for turn in ("first", "second"):
        arguments = [f"local-dir:{folder}", str(tmp_path / "cache"), turn]
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_half_precision_is_that_of_towers_alone(folder: Path, tmp_path: Path) -> None:
    """`bf16` moves images and prompts by bf16's rounding; features stay float32, and are known to be others."""
    name = f"local-dir:{folder}"
    full, half = load_clip(name), load_clip(name, bf16=True)
    pixels, context = full.preprocess(picture())[None], torch.randn(2, full.context_width)
    for clip in (half, load_clip(name, bf16=True, cache=tmp_path)):
        for ours, theirs in (
            (clip.encode_images(pixels), full.encode_images(pixels)),
            (PromptEncoder(clip, ("a", "b"), 2)(context), PromptEncoder(full, ("a", "b"), 2)(context)),
        ):
            assert ours.dtype == torch.float32
            assert not torch.equal(ours, theirs)
            torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1)
    assert half.fingerprint == full.fingerprint
    assert half.feature_fingerprint != full.feature_fingerprint == full.fingerprint


def test_changed_weights_are_noticed(folder: Path, tmp_path: Path) -> None:
    """When the checkpoint is another one, so is the CLIP, whatever the cache holds."""
    name, cache = f"local-dir:{folder}", tmp_path / "cache"
    before = load_clip(name, cache=cache).fingerprint
    weights = {key: value + 1 for key, value in load_file(folder / "open_clip_model.safetensors").items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    assert load_clip(name, cache=cache).fingerprint != before


@pytest.mark.parametrize("part", ["clips/*.safetensors", "clips/*.tokens.json", "texts/*.safetensors"])
def test_damaged_cache_is_made_again(folder: Path, tmp_path: Path, part: str) -> None:
    """A truncated or overwritten file in the cache changes nothing but the time taken."""
    name, cache = f"local-dir:{folder}", tmp_path / "cache"
    texts = load_clip(name, cache=cache).encode_texts(TEXTS)
    (path,) = cache.glob(part)
    foreign = save({"weights": torch.zeros(2)})  # without metadata
    for damaged in (path.read_bytes()[:-7], b"something else", b"", b"[1]", b'{"cat.": [1, 2]}', b"3", foreign):
        path.unlink()  # what is mapped stays as it is
        path.write_bytes(damaged)
        assert torch.equal(load_clip(name, cache=cache).encode_texts(TEXTS), texts)


def test_random_weights_only_when_asked(tiny_architecture: str) -> None:
    """An architecture without weights is refused, unless a seed is given, on which alone they depend."""
    with pytest.raises(ValueError, match="tiny-test needs weights"):
        load_clip(tiny_architecture)
    seeds = [load_clip(tiny_architecture, random_seed=seed).fingerprint for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]


def test_checkpoint_of_another_architecture(tiny_architecture: str, tmp_path: Path) -> None:
    """A checkpoint file is loaded if it fits; one that does not, or is none, is refused in one line."""
    fits, wide, stretched, none = (tmp_path / name for name in ("fits.pt", "wide.pt", "long.safetensors", "none.pt"))
    torch.save({"state_dict": open_clip.CLIP(**TINY).state_dict()}, fits)
    torch.save(open_clip.CLIP(**TINY | {"embed_dim": 8}).state_dict(), wide)
    longer = TINY | {"text_cfg": {**TINY["text_cfg"], "context_length": 30}}
    save_file(open_clip.CLIP(**longer).state_dict(), stretched)
    none.write_text("nothing")
    assert load_clip(tiny_architecture, str(fits)).embed_dim == 16
    for path, reason in (
        (wide, "size mismatch"),
        (stretched, r"is \[30, 16\], not \[20, 16\]"),
        (none, "cannot open"),
    ):
        with pytest.raises(ValueError, match=reason) as refused:
            load_clip(tiny_architecture, str(path))
        assert path.name in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("model", "pretrained", "line"),
    [
        ("ViT-B-61", "", "open_clip knows no model 'ViT-B-61', did you mean 'ViT-B-16'?"),
        ("ViT-B/16", "", "ViT-B-16 needs weights; give a checkpoint file or one of: openai, "),
        ("ViT-B-16", "opnai", "no tag 'opnai' for ViT-B-16, did you mean 'openai'?"),
        ("roberta-ViT-B-32", "laion2b_s12b_b32k", "computes QuickGELU"),
        ("local-dir:/not/there", "", "/not/there"),
        ("local-dir:/not/there", "openai", "pretrained = 'openai' has no meaning"),
        ("ViT-B-16-SigLIP", "none", "no tag 'none'"),
    ],
)
def test_models_that_are_not_there(model: str, pretrained: str, line: str) -> None:
    """A wrong name or tag is refused in one line that names it and what there is instead."""
    with pytest.raises(ValueError, match=re.escape(line)) as refused:
        load_clip(model, pretrained)
    assert "\n" not in str(refused.value)


def test_quick_gelu_follows_the_weights(
    monkeypatch: pytest.MonkeyPatch, tiny_architecture: str, tmp_path: Path
) -> None:
    """Weights that were trained with QuickGELU are computed with it, though the architecture says GELU."""
    torch.save(open_clip.CLIP(**TINY).state_dict(), tmp_path / "weights.pt")
    tags = {"quick": {"file": str(tmp_path / "weights.pt"), "quick_gelu": True}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, tiny_architecture, tags)  # noqa: SLF001 - its table of tags
    clip = load_clip(tiny_architecture, "quick")
    assert isinstance(clip.text, TextTower)
    assert clip.text.activation == "silu"


def test_loading_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Loading prints, logs and warns of nothing."""
    load_clip(f"local-dir:{folder}")
    assert capfd.readouterr() == ("", "")


def test_no_text_to_encode() -> None:
    """Encoding no text at all is refused."""
    with pytest.raises(ValueError, match="no text"):
        tiny_clip().encode_texts([])


def test_text_tower_that_is_not_known() -> None:
    """A model whose text tower takes no context is refused by its name."""
    model: Any = tiny_model(custom_text=True)
    model.text = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="the text tower Linear is not one that a learned context can be put into"):
        FrozenClip.from_open_clip(model, TinyTokenizer())
