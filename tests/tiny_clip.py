"""Tiny random CLIP models, as open_clip makes them, and a tokenizer that needs no vocabulary file."""

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from common.clip import FrozenClip

START, END = 98, 99


class TinyTokenizer:
    """One token for each letter; `start`, `end` and `pad` as the model wants them."""

    def __init__(self, context_length: int = 77, *, start: int | None = START, end: int = END, pad: int = 0) -> None:
        self.context_length, self.start, self.end, self.pad = context_length, start, end, pad

    def __call__(self, texts: Sequence[str], context_length: int | None = None) -> Tensor:
        """Token ids, padded or cut to the context length, as open_clip's tokenizers give them."""
        length = context_length or self.context_length
        rows = torch.full((len(texts), length), self.pad)
        for row, text in zip(rows, texts, strict=True):
            ids = [3 + ord(letter) % 90 for letter in text.lower()]
            ids = [*([] if self.start is None else [self.start]), *ids, self.end][:length]
            ids[-1] = self.end
            row[: len(ids)] = torch.tensor(ids)
        return rows


def tiny_model(
    *,
    width: int = 16,
    heads: int = 2,
    layers: int = 2,
    embed_dim: int = 8,
    context_length: int = 40,
    image_size: int = 16,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    custom_text: bool = False,
    text: dict[str, object] | None = None,
    **settings: Any,  # noqa: ANN401 - those of open_clip's model
) -> nn.Module:
    """A random CLIP with weights large enough that every part of it shows in the features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
        model = kind(
            embed_dim=embed_dim,
            vision_cfg={"image_size": image_size, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
            text_cfg={
                "context_length": context_length,
                "vocab_size": 100,
                "width": width,
                "heads": heads,
                "layers": layers,
                **(text or {}),
            },
            **settings,
        ).to(dtype)
        for parameter in model.parameters():
            if parameter.ndim:
                parameter.data += 0.2 * torch.randn_like(parameter)
    open_clip.set_model_preprocess_cfg(
        model,
        {
            "size": image_size,
            "mode": "RGB",
            "mean": (0.5,) * 3,
            "std": (0.25,) * 3,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
            "fill_color": 0,
        },
    )
    return model.eval()


def tiny_clip(**settings: Any) -> FrozenClip:  # noqa: ANN401 - those of tiny_model
    """A tiny random CLIP, frozen, with its letter tokenizer."""
    model = tiny_model(**settings)
    length = getattr(model, "text", model).context_length
    return FrozenClip.from_open_clip(model, TinyTokenizer(length))
