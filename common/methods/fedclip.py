"""FedCLIP: Lu, Hu, Wang, Xie, Fast Generalization and Personalization for CLIP, 2023, arXiv:2302.13485.

An attention adapter on the image feature is all that is trained and travels; the text side is fixed, so that
training needs neither tower once its features are stored.

Shapes: B images, C classes, D embedding.

The loss is the released code's: it contrasts a batch's images with each other's texts, so that two images of
one class count as negatives; cross-entropy over all classes is an option. Differs: Adam starts anew every
round; a last batch of one image, which has no negatives, is not left out and only decays the weights.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from common.config import Count, NonNegative, Positive, RunConfig, Section
from common.method import Learner, Local, Method, Schedule, Sizes, Tensors, Upload, send_to_all, weighted_mean
from common.optimiser import Step, adam
from common.seeding import generator

BETAS, EPS = (0.9, 0.98), 1e-6


class Options(Section):
    """FedCLIP."""

    loss: Literal["contrastive", "class"] = Field(
        "contrastive", description="contrast within the batch, as released, or cross-entropy over all classes"
    )
    weighting: Literal["uniform", "examples"] = Field(
        "uniform", description="how clients count in the mean: alike, or by their training images"
    )
    epochs: Count = Field(1, description="local epochs a round")
    batch_size: Count = Field(32, description="images a step")
    lr: Positive = Field(5e-5, description="Adam's learning rate, constant")
    weight_decay: NonNegative = Field(0.2, description="Adam's weight decay, added to the gradient")


class Adapter(nn.Module):
    """a(f) = softmax(W2 tanh(W1 f + b1) + b2) over the D coordinates; 2·D·(D + 1) parameters."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.inner = nn.Linear(embed_dim, embed_dim)
        self.outer = nn.Linear(embed_dim, embed_dim)

    def forward(self, features: Float[Tensor, "images D"]) -> Float[Tensor, "images D"]:
        """How much attention each coordinate gets; every row sums to 1."""
        attention: Tensor = self.outer(self.inner(features).tanh()).softmax(-1)
        return attention


def first_adapter(sizes: Sizes, seed: int) -> Tensors:
    """`adapter.*`, both maps drawn from U(-1/√D, 1/√D), as torch draws a linear layer."""
    rng, bound = generator(seed, "adapter"), sizes.embed_dim**-0.5
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in Adapter(sizes.embed_dim).named_parameters()}
    drawn = {name: torch.empty(shape).uniform_(-bound, bound, generator=rng) for name, shape in shapes.items()}
    return {f"adapter.{name}": tensor for name, tensor in drawn.items()}


class Adapted(Learner):
    """Fixed texts, and image features under a trained adapter."""

    def __init__(self, local: Local, options: Options) -> None:
        super().__init__()
        self.scale, self.contrastive = local.clip.logit_scale, options.loss == "contrastive"
        texts = [f"a picture of a {name.replace('_', ' ')}" for name in local.class_names]
        self.text_CD = local.clip.encode_texts(texts)
        with torch.device("meta"):
            self.adapter = Adapter(local.clip.embed_dim)
        given = {
            name.removeprefix("adapter."): value.to(local.clip.device, copy=True)
            for name, value in local.tensors.items()
        }
        self.adapter.load_state_dict(given, assign=True)

    def text(self) -> Float[Tensor, "classes D"]:
        """Features of "a picture of a {class}", unit length."""
        return self.text_CD

    def logits(
        self, features: Float[Tensor, "images D"], text: Float[Tensor, "texts D"]
    ) -> Float[Tensor, "images texts"]:
        """Each image against each text: s · norm(a(f) ⊙ f) · t."""
        return self.scale * normalize(self.adapter(features) * features, dim=-1) @ text.T

    def loss(self, features: Float[Tensor, "images D"], labels: Int[Tensor, "images"]) -> Float[Tensor, ""]:
        """Cross-entropy within the batch, image to text and text to image averaged, or over all classes."""
        if not self.contrastive:
            return super().loss(features, labels)
        logits_BB = self.logits(features, self.text_CD[labels])
        own = torch.arange(len(labels), device=labels.device)
        return (cross_entropy(logits_BB, own) + cross_entropy(logits_BB.T, own)) / 2


def make(config: RunConfig, options: Options) -> Method:
    """FedCLIP as a federated method."""
    del config

    def optimiser(learner: Learner) -> Step:
        parameters = tuple(learner.parameters())
        return adam(parameters, lr=options.lr, betas=BETAS, eps=EPS, weight_decay=options.weight_decay)

    def aggregate(state: Tensors, uploads: Mapping[str, Upload]) -> Tensors:
        return state | weighted_mean(uploads, uniform=options.weighting == "uniform")

    return Method(
        name="fedclip",
        source="Lu, Hu, Wang, Xie 2023, arXiv:2302.13485",
        first=first_adapter,
        learner=lambda local: Adapted(local, options),
        schedule=Schedule(options.epochs, options.batch_size, optimiser),
        downlink=send_to_all,
        shared=dict,
        aggregate=aggregate,
    )
