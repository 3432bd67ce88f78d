"""What is asked of an upload before anything uses it."""

from collections.abc import Mapping

import torch

from common.method import Tensors
from common.plain import short


def objection(upload: Mapping[str, torch.Tensor], like: Tensors, norm_bound: float) -> str | None:
    """Why the upload is refused, in one line, or None where it has `like`'s names, shapes, dtypes and sane values."""
    if upload.keys() != like.keys():
        return short(f"tensors {sorted(upload)} instead of {sorted(like)}")
    for name, tensor in upload.items():
        if tensor.shape != like[name].shape:
            return f"{name}: shape {tuple(tensor.shape)} instead of {tuple(like[name].shape)}"
        if tensor.dtype != like[name].dtype:
            return f"{name}: dtype {tensor.dtype} instead of {like[name].dtype}"
        if not torch.isfinite(tensor).all():
            return f"{name}: holds NaN or infinity"
        if (norm := tensor.double().norm().item()) > norm_bound:
            return f"{name}: norm {norm:.4g} is above federation.norm-bound = {norm_bound:g}"
    return None
