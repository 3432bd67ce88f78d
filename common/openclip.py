"""A whole open_clip model as a `FrozenClip`.

A text side whose every part is known to be the standard one is read into the form that runs fast; another one
is run by its own forward, on all positions.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import (
    LayerNorm,
    LayerNormFp32,
    LayerScale,
    QuickGELU,
    ResidualAttentionBlock,
    TextTransformer,
    Transformer,
)
from open_clip.utils import to_2tuple
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torchvision.transforms import Compose, InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import hflip, resized_crop

from common.clip import Facts, FrozenClip, ImageSide
from common.images import to_rgb
from common.tokens import Tokens
from common.tower import OwnForward, TextTower

Model = Any  # open_clip states no types
NORMS = {LayerNorm, LayerNormFp32}
STANDARD = NORMS | {
    *(Transformer, ResidualAttentionBlock, LayerScale, QuickGELU),
    *(nn.MultiheadAttention, nn.GELU, nn.ModuleList, nn.Sequential, nn.Identity, nn.Embedding),
    *(nn.Linear, NonDynamicallyQuantizableLinear),
}
"""The types of all parts of a text side that is read, compared exactly: a subclass may compute anything."""
QUICK = 1.702
SETTINGS = {"training", "output_tokens", "output_dict", "grad_checkpointing"}
"""What a module is set to, not what it is."""
DRAWING = Lock()
"""torchvision draws from the one global generator."""


def wrap(model: Model, tokenizer: Callable[..., Tensor]) -> FrozenClip:
    """`model`, put into evaluation mode and frozen in place, on its device and in its dtype.

    Raises:
        ValueError: the text tower is one that no context can be put into.
    """
    model.eval().requires_grad_(requires_grad=False)
    text_side = read_text_side(model)
    text: Model = getattr(model, "text", model)
    scale = model.logit_scale
    preprocessing = open_clip.get_model_preprocess_cfg(model)
    image_side = _image_side(model, preprocessing)
    width, projection = text.token_embedding.embedding_dim, text.text_projection
    if isinstance(projection, nn.Linear):
        projection = projection.weight.T
    facts = Facts(
        fingerprint=_fingerprint(model, preprocessing),
        logit_scale=math.exp(scale.double().item()),
        embed_dim=width if projection is None else projection.shape[1],
        context_width=width,
        context_length=text.context_length,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=str(scale.dtype).removeprefix("torch."),
    )
    tokens = Tokens(lambda: tokenizer, facts.context_length)
    return FrozenClip(facts, tokens, scale.device, lambda: text_side, lambda: image_side)


def _fingerprint(model: Model, preprocessing: dict[str, Any]) -> str:
    """Digest of every module's type and settings, every parameter and buffer, and the preprocessing."""
    plain = (bool, int, float, str, tuple)
    shape = [
        (
            name,
            type(module).__name__,
            sorted(
                (key, value)
                for key, value in vars(module).items()
                if isinstance(value, plain) and not key.startswith("_") and key not in SETTINGS
            ),
        )
        for name, module in model.named_modules()
    ]
    digest = hashlib.sha256(json.dumps([shape, preprocessing], sort_keys=True).encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _image_side(model: Model, preprocessing: dict[str, Any]) -> ImageSide:
    fixed = image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)
    finish = Compose(fixed.transforms[-2:])
    size = to_2tuple(preprocessing["size"])

    def random(image: Image, seed: int) -> Tensor:
        image = to_rgb(image)
        with DRAWING, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            crop = RandomResizedCrop.get_params(image, scale=[0.08, 1.0], ratio=[3 / 4, 4 / 3])
            flip = bool(torch.rand(()) < 1 / 2)
        image = resized_crop(image, *crop, size, InterpolationMode.BICUBIC)
        pixels: Tensor = finish(hflip(image) if flip else image)
        return pixels

    return ImageSide(
        encode=lambda pixels: model.encode_image(pixels, normalize=False),
        fixed=lambda image: fixed(to_rgb(image)),
        random=random,
    )


def read_text_side(model: Model) -> TextTower | OwnForward:
    """The text side of an open_clip model; a `TextTower` if every part of it is known to be the standard one.

    Raises:
        ValueError: the text tower takes no token embeddings of a kind known here.
    """
    text: Model = getattr(model, "text", model)
    if not (type(text) is TextTransformer or type(model) is open_clip.CLIP):
        raise ValueError(f"the text tower {type(text).__name__} is not one that a learned context can be put into")
    if not _is_standard(model, text):
        return OwnForward(lambda tokens: model.encode_text(tokens, normalize=False), text.token_embedding)
    blocks = list(text.transformer.resblocks)
    activation = blocks[0].mlp.gelu
    quick = type(activation) is QuickGELU
    return TextTower(
        heads=blocks[0].attn.num_heads,
        layers=len(blocks),
        eps=text.ln_final.eps,
        activation="silu" if quick else "gelu-tanh" if activation.approximate == "tanh" else "gelu",
        pool=_pool(text)[0],
        eos=_pool(text)[1],
        weights={name: weight.detach() for name, weight in _weights(text, blocks, QUICK if quick else 1.0)},
    )


def _weights(text: Model, blocks: list[Model], quick: float) -> Iterator[tuple[str, Tensor]]:
    yield "token", text.token_embedding.weight
    yield "position", text.positional_embedding
    for i, block in enumerate(blocks):
        attention, mlp = block.attn, block.mlp
        yield from _pair(f"{i}.before", block.ln_1.weight, block.ln_1.bias)
        yield from _pair(f"{i}.qkv", attention.in_proj_weight, attention.in_proj_bias)
        yield from _pair(f"{i}.out", attention.out_proj.weight, attention.out_proj.bias, block.ls_1)
        yield from _pair(f"{i}.between", block.ln_2.weight, block.ln_2.bias)
        yield from _pair(f"{i}.up", _times(mlp.c_fc.weight, quick), _times(mlp.c_fc.bias, quick))
        yield from _pair(f"{i}.down", _times(mlp.c_proj.weight, 1 / quick), mlp.c_proj.bias, block.ls_2)
    yield from _pair("final", text.ln_final.weight, text.ln_final.bias)
    if isinstance(text.text_projection, nn.Linear):
        yield from _pair("projection", text.text_projection.weight, text.text_projection.bias)
    elif text.text_projection is not None:
        yield "projection.weight", text.text_projection.T.contiguous()


def _pair(name: str, weight: Tensor, bias: Tensor | None, scale: Model = None) -> Iterator[tuple[str, Tensor]]:
    """A map's weight and bias, with the layer scale that follows it multiplied in."""
    gamma = getattr(scale, "gamma", None)
    yield f"{name}.weight", weight if gamma is None else _times(weight, gamma[:, None])
    if bias is not None:
        yield f"{name}.bias", bias if gamma is None else _times(bias, gamma)


def _times(tensor: Tensor, factor: float | Tensor) -> Tensor:
    unchanged = isinstance(factor, float) and factor == 1
    return tensor if unchanged else (tensor.double() * factor).to(tensor.dtype)


def _pool(text: Model) -> tuple[str, int]:
    """Where a text's feature is read, and the id of the end of text if it is found by that."""
    if isinstance(text, TextTransformer):
        return text.pool_type, text.eos_id
    return text.text_pool_type, text.text_eos_id


def _is_standard(model: Model, text: Model) -> bool:
    """Whether nothing in the text side differs from CLIP's causal transformer."""
    blocks = list(text.transformer.resblocks)
    roots = (text.transformer, text.token_embedding, text.ln_final)
    parts = [part for root in roots for part in root.modules()]
    norms = [part for part in parts if type(part) in NORMS]
    attentions = [block.attn for block in blocks if type(block) is ResidualAttentionBlock]
    return (
        type(model) in (open_clip.CLIP, open_clip.CustomTextCLIP)
        and all(type(part) in STANDARD and not _hooked(part) for part in parts)
        and len(attentions) == len(blocks)
        and getattr(text, "cls_emb", None) is None
        and _pool(text)[0] in ("argmax", "eos", "last")
        and _is_causal(text.attn_mask)
        and len({norm.eps for norm in norms}) == 1
        and all(norm.weight is not None and norm.bias is not None for norm in norms)
        and len({attention.num_heads for attention in attentions}) == 1
        and all(a.in_proj_weight is not None and a.in_proj_bias is not None for a in attentions)
        and not any(a.bias_k is not None or a.add_zero_attn for a in attentions)
        and all([name for name, _ in block.mlp.named_children()] == ["c_fc", "gelu", "c_proj"] for block in blocks)
        and len({repr(block.mlp.gelu) for block in blocks}) == 1
    )


def _is_causal(mask: Tensor | None) -> bool:
    return mask is not None and torch.equal(mask, torch.full_like(mask, -torch.inf).triu(1))


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)  # noqa: SLF001 - torch has no other way
