"""What the command line asks for, and the model, names and numbers that follow from it."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pkgutil import resolve_name
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from common.clip import FrozenClip
from common.methods.pfedmoap import Options
from common.openclip import wrap
from common.pretrained import open_clip_model, tokenizer_of
from common.seeding import generator
from deploy.bench.measure import free_memory

Model = Any  # open_clip states no types
WIDTHS_KEPT = 17
"""What the obvious way keeps of a position in each block for its gradient, in widths of the transformer."""


@dataclass(frozen=True)
class Setting:
    """What the command line asks for."""

    model: str
    pretrained: str
    classes: int
    experts: int
    batch: int
    images: int
    context_tokens: int
    dtype: str
    device: str

    @cached_property
    def compute(self) -> torch.dtype:
        """The dtype of weights: bfloat16 is computed by autocast on float32 weights."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    @cached_property
    def open_clip(self) -> Model:
        """The whole model, with random weights where no others are named."""
        model, _ = open_clip_model(self.model, self.pretrained, seed=0)
        return model.to(self.device, self.compute)

    @cached_property
    def clip(self) -> FrozenClip:
        """The same model, frozen."""
        return wrap(self.open_clip, tokenizer_of(self.model))

    def of_classes(self, count: int) -> "Setting":
        """The same with another number of classes, and the same model."""
        other = replace(self, classes=count)
        vars(other).update(open_clip=self.open_clip, clip=self.clip)
        return other

    @cached_property
    def names(self) -> tuple[str, ...]:
        """ImageNet's class names, as open_clip lists them, made distinct; numbered where they run out."""
        listed = [name.lower() for name in resolve_name("open_clip:IMAGENET_CLASSNAMES")]
        names = [name if name not in listed[:i] else f"{name} {i}" for i, name in enumerate(listed)]
        again, turn = len(names), range(self.classes)
        return tuple(names[i % again] + (f" {i // again}" if i >= again else "") for i in turn)

    @property
    def gate(self) -> Options:
        """pFedMoAP's options, with the widest gate up to the usual one that divides the embedding.

        Raises:
            ValueError: there are no experts.
        """
        if not self.experts:
            raise ValueError("--experts = 0: without experts there is no gate to measure")
        return Options(experts=self.experts, gate_width=math.gcd(Options().gate_width, self.clip.embed_dim))

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.clip.preprocess(Image.new("RGB", (8, 8))).shape[1:]
        return height, width

    def randn(self, *shape: int, purpose: str) -> Tensor:
        """Reproducible noise."""
        return torch.randn(shape, generator=generator(0, purpose)).to(self.device, self.compute)

    def autocast(self) -> torch.autocast:
        """bf16 where that is asked for; without the cache of cast weights, which a captured graph could not hold."""
        return torch.autocast(
            self.clip.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16", cache_enabled=False
        )

    def share(self) -> float:
        """The part of the classes for whose gradient the obvious way has memory."""
        text: Model = getattr(self.open_clip, "text", self.open_clip)
        positions = len(text.transformer.resblocks) * self.clip.context_length
        width = self.clip.context_width * self.compute.itemsize
        fits = int(0.6 * free_memory(self.clip.device) / (positions * width * WIDTHS_KEPT))
        return min(1.0, max(1, fits) / self.classes)
