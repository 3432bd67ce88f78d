"""A learned context and the local training of it, which coop, promptfl, fedprox and pfedmoap share.

Source: Zhou et al., Learning to Prompt for Vision-Language Models (CoOp), IJCV 2022, arXiv:2109.01134.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.config import PromptOptions
from common.method import Learner, Local, Sizes, Tensors
from common.seeding import generator
from common.text import PromptEncoder

CONTEXT_STD = 0.02

prompt_encoder = lru_cache(maxsize=8)(PromptEncoder)
"""PromptEncoder(clip, class_names, context_tokens), made once in a process."""


def first_context(sizes: Sizes, seed: int, options: PromptOptions) -> Tensors:
    """`context`, the first M context vectors, drawn from N(0, 0.02²), [M, W]."""
    shape = (options.context_tokens, sizes.context_width)
    return {"context": torch.randn(shape, generator=generator(seed, "context")) * CONTEXT_STD}


class PromptLearner(Learner):
    """One generic context, trained on the logits s · norm(f) · t_c."""

    def __init__(self, local: Local, options: PromptOptions) -> None:
        super().__init__()
        self.context = nn.Parameter(local.tensors["context"].to(local.clip.device, copy=True))
        self.scale = local.clip.logit_scale
        self.encode = prompt_encoder(local.clip, local.class_names, options.context_tokens)

    def text(self) -> Float[Tensor, "classes D"]:
        """Text features of all classes under the context, unit length."""
        return self.encode(self.context)

    def logits(
        self, features: Float[Tensor, "images D"], text: Float[Tensor, "classes D"]
    ) -> Float[Tensor, "images classes"]:
        """s · norm(f) · t_c."""
        return self.scale * nn.functional.normalize(features, dim=-1) @ text.T
