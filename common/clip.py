"""A frozen CLIP: images and texts in, features out.

Its towers are loaded when they are first used, so that a process which has its features needs no image tower,
and one which has its text features none at all.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Float
from PIL.Image import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.cache import once
from common.tokens import Tokens
from common.tower import TextSide, TextTower

TEXTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Facts:
    """What is known of a CLIP before any of it is loaded."""

    fingerprint: str
    logit_scale: float
    embed_dim: int
    context_width: int
    context_length: int
    parameters: int
    dtype: str


@dataclass(frozen=True)
class ImageSide:
    """The image tower, and what turns pictures into its pixels."""

    encode: Callable[[Tensor], Tensor]
    fixed: Callable[[Image], Tensor]
    random: Callable[[Image, int], Tensor]


class FrozenClip:
    """CLIP in evaluation mode, none of whose parameters is ever trained; `load_clip` makes it."""

    def __init__(
        self,
        facts: Facts,
        tokens: Tokens,
        device: torch.device,
        text: Callable[[], TextSide],
        images: Callable[[], ImageSide],
        *,
        texts: Path | None = None,
        bf16: bool = False,
    ) -> None:
        self.facts = facts
        self.fingerprint = facts.fingerprint
        """Digest of architecture, weights and preprocessing: the same in every process, on every device."""
        self.logit_scale = facts.logit_scale
        """The factor on cosine similarities, exp(logit_scale)."""
        self.embed_dim = facts.embed_dim
        """D, the width of features."""
        self.context_width = facts.context_width
        """W, the width of one context token."""
        self.context_length = facts.context_length
        self.parameters = facts.parameters
        """How many parameters both towers have."""
        self.dtype: torch.dtype = getattr(torch, facts.dtype)
        self.device, self.tokens = device, tokens
        self.bf16 = bf16
        """Whether images and prompts are encoded in bfloat16, by autocast; weights and features stay as they are."""
        self._text, self._images, self._texts = text, images, texts

    @classmethod
    def from_open_clip(cls, model: nn.Module, tokenizer: Callable[..., Tensor]) -> "FrozenClip":
        """`model`, put into evaluation mode and frozen in place, on its device and in its dtype.

        Raises:
            ValueError: the text tower is one that no context can be put into.
        """
        from common.openclip import wrap

        return wrap(model, tokenizer)

    @cached_property
    def text(self) -> TextSide:
        """The text tower."""
        with torch.inference_mode(mode=False):
            return self._text()

    @cached_property
    def images(self) -> ImageSide:
        """The image tower."""
        return self._images()

    @property
    def feature_fingerprint(self) -> str:
        """What decides the features of an image: the fingerprint and the precision."""
        return f"{self.fingerprint}{', bf16' * self.bf16}"

    def precision(self) -> AbstractContextManager[object]:
        """bfloat16 where this CLIP computes in it; else whatever is in force."""
        if not self.bf16:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)  # a graph could not hold the cache

    @torch.no_grad()
    def encode_images(self, pixels: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images D"]:
        """Image features, not normalised."""
        with self.precision():
            return self.images.encode(pixels.to(self.device, self.dtype)).to(self.dtype)

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts D"]:
        """Features of whole texts, unit length; read from disk where they were computed before.

        Raises:
            ValueError: there is no text, or one that does not fit the context length.
        """
        if not texts:
            raise ValueError("no text to encode")
        if self._texts is None:
            return self._encode_texts(texts)
        digest = hashlib.sha256("\0".join((self.fingerprint, *texts)).encode()).hexdigest()
        path = self._texts / f"{digest[:32]}.safetensors"
        found = once(
            path,
            lambda path: _stored(path, digest),
            lambda path: save_file({"features": self._encode_texts(texts).cpu()}, path, {"texts": digest}),
        )
        return found.to(self.device)

    def preprocess(self, image: Image) -> Float[Tensor, "3 height width"]:
        """The pixels of any picture under the model's own fixed preprocessing."""
        return self.images.fixed(image)

    def augment(self, image: Image, seed: int) -> Float[Tensor, "3 height width"]:
        """The pixels of a random crop, flipped half of the time; which one depends on the seed alone."""
        return self.images.random(image, seed)

    @torch.no_grad()
    def _encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts D"]:
        tokens = self.tokens.rows(texts)
        empty = torch.empty(1, 0, self.context_width, device=self.device, dtype=self.dtype)
        head, parts = self.tokens.head, torch.split(tokens, TEXTS_AT_ONCE)
        return torch.cat([self.text(empty, self.text.prepare(part, head, 0, own=False))[0] for part in parts])


def load_clip(
    model: str,
    pretrained: str = "",
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    cache: Path | None = None,
    random_seed: int | None = None,
    bf16: bool = False,
) -> FrozenClip:
    """The CLIP of that name: demo, local-dir:PATH, hf-hub:NAME or an open_clip architecture with weights.

    With a `cache` folder its text tower and what is known of it are kept there, and from then on nothing else
    is loaded before an image has to be encoded; the files it came from are compared by path, size and time.
    An architecture without weights is refused, unless a `random_seed` asks for random ones. `bf16` computes in that,
    with weights as they are.

    Raises:
        ValueError: one line that says which name, tag, file or weights are wrong and what there is instead.
    """
    if model == "demo":
        model = f"local-dir:{files('deploy.demo') / 'clip'}"
    if model.startswith("local-dir:"):
        model = f"local-dir:{Path(model.removeprefix('local-dir:')).absolute()}"
    if Path(pretrained).is_file():
        pretrained = str(Path(pretrained).absolute())

    def tokenizer() -> Callable[..., Tensor]:
        from common.pretrained import tokenizer_of

        return tokenizer_of(model)

    @lru_cache(maxsize=1)
    def whole() -> tuple[FrozenClip, list[Path]]:
        from common.openclip import wrap
        from common.pretrained import open_clip_model

        opened, sources = open_clip_model(model, pretrained, seed=random_seed)
        return wrap(opened.to(device, dtype), tokenizer()), sources

    if cache is None:
        clip = whole()[0]
        clip.bf16 = bf16
        return clip
    versions = [version(package) for package in ("open_clip_torch", "torch", "fedmoap")]
    asked = json.dumps([model, pretrained, str(dtype), random_seed, versions])
    path = cache / "clips" / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.safetensors"
    facts, tower = once(path, _kept, lambda path: _keep(path, *whole()))
    return FrozenClip(
        facts,
        Tokens(tokenizer, facts.context_length, path.with_suffix(".tokens.json")),
        torch.device(device),
        lambda: tower.to(device) if tower else whole()[0].text,
        lambda: whole()[0].images,
        texts=cache / "texts",
        bf16=bf16,
    )


def _keep(path: Path, clip: FrozenClip, sources: Sequence[Path]) -> None:
    """Facts and text tower written to `path`, with the state of the files they came from."""
    tower = clip.text if isinstance(clip.text, TextTower) else None
    about = {"facts": asdict(clip.facts), "tower": tower and tower.settings(), "sources": _stamps(sources)}
    weights = {name: weight.cpu().contiguous() for name, weight in tower.weights.items()} if tower else {}
    save_file(weights, path, {name: json.dumps(value) for name, value in about.items()})


def _kept(path: Path) -> tuple[Facts, TextTower | None] | None:
    """What `_keep` wrote, weights mapped into memory; None where it did not or the sources have changed."""
    try:
        with safe_open(path, "pt") as file:
            about = {name: json.loads(value) for name, value in file.metadata().items()}
            if about["sources"] != _stamps(Path(name) for name, *_ in about["sources"]):
                return None
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return Facts(**about["facts"]), about["tower"] and TextTower(weights=weights, **about["tower"])
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError):
        return None


def _stamps(paths: Iterable[Path]) -> list[list[str | int]]:
    status = [(str(path), path.stat()) for path in paths]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in status]


def _stored(path: Path, digest: str) -> Tensor | None:
    """Text features kept at `path`; None where there are none or they are of other texts."""
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("features") if file.metadata() == {"texts": digest} else None
    except (OSError, SafetensorError):
        return None
