"""The obvious ways: what is computed before anything is left out. Same numbers, all the work."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.clip import FrozenClip
from common.method import Learner, Local
from common.methods.pfedmoap import Gate, Options

Model = Any  # open_clip states no types


class ObviousText:
    """Text features by open_clip's own path: all positions of every class, the context put in after embedding."""

    def __init__(self, model: Model, clip: FrozenClip, names: Sequence[str], context_tokens: int) -> None:
        texts = [f"{name.replace('_', ' ')}." for name in names]
        self.model, self.head = model, clip.tokens.head
        self.tokens = clip.tokens.rows(texts, context_tokens).to(clip.device)

    def __call__(self, context: Float[Tensor, "tokens width"]) -> Float[Tensor, "classes D"]:
        """Unit text features of all classes."""
        stop = self.head + len(context)

        def put(_module: nn.Module, _tokens: object, embedded: Tensor) -> Tensor:
            vectors = context.expand(len(embedded), -1, -1).to(embedded.dtype)
            return torch.cat((embedded[:, : self.head], vectors, embedded[:, stop:]), 1)

        text: Model = getattr(self.model, "text", self.model)
        hook = text.token_embedding.register_forward_hook(put)
        try:
            features: Tensor = self.model.encode_text(self.tokens, normalize=True)
        finally:
            hook.remove()
        return features


def obvious_gate(
    gate: Gate, image_BD: Float[Tensor, "images D"], text_CED: Float[Tensor, "classes experts D"]
) -> Float[Tensor, "images classes"]:
    """pool(f) · t_c^MoE by attention with the query repeated for every class."""
    image_CBG = gate.pool(image_BD).repeat(len(text_CED), 1, 1)
    text_CEG = gate.pool(text_CED)
    query, key, value = (
        projected.unflatten(-1, (gate.heads, -1)).transpose(1, 2)
        for projected in (gate.query(image_CBG), gate.key(text_CEG), gate.value(text_CEG))
    )
    weights_CHBE = (gate.score_scale * query @ key.transpose(-1, -2)).softmax(-1)
    mixed_CBG = gate.out((weights_CHBE @ value).transpose(1, 2).flatten(2))
    logits: Tensor = (image_CBG * mixed_CBG).sum(-1).T
    return logits


class ObviousMixture(Learner):
    """pFedMoAP's learner on flat pixels: image tower, all text positions, repeated query at every step."""

    def __init__(self, model: Model, local: Local, options: Options, pixels: tuple[int, int]) -> None:
        super().__init__()
        self.pixels = pixels
        self.clip, self.lambda_ = local.clip, options.lambda_
        self.context = nn.Parameter(local.tensors["context"].clone())
        self.gate = Gate(options, local.seed).to(self.context.device, self.context.dtype)
        self.encode = ObviousText(model, local.clip, local.class_names, len(self.context))
        with torch.no_grad():
            self.expert_text_KCD = torch.stack([self.encode(context) for context in local.tensors["experts"]])

    def text(self) -> Float[Tensor, "classes experts D"]:
        """Text features of every class, the local ones first."""
        return torch.stack((self.encode(self.context), *self.expert_text_KCD), 1)

    def logits(
        self, features: Float[Tensor, "images pixels"], text: Float[Tensor, "classes experts D"]
    ) -> Float[Tensor, "images classes"]:
        """s·pool(f)·t_c^MoE + λ·s·norm(f)·t_c, from pixels."""
        image_BD = self.clip.encode_images(features.unflatten(1, (3, *self.pixels)))
        image_BD = nn.functional.normalize(image_BD, dim=-1)
        own_BC = image_BD @ text[:, 0].T
        return self.clip.logit_scale * (obvious_gate(self.gate, image_BD, text) + self.lambda_ * own_BC)
