"""FedAPT: Su, Yang, Li, Xue, Federated Adaptive Prompt Tuning, AAAI 2024, arXiv:2211.07864.

A meta prompt p and an adaptive network Q are trained by all clients; frozen keys k_d, one a domain and drawn
by the server, turn p into the prompt of a domain, p ⊙ (1 + k_d). In training the domain is the client's own;
in inference Q weighs the keys for every image: w = softmax(z / T) of z = Q f, standardised over the domains.

Shapes: B images, C classes, N domains, M context tokens, W their width, D embedding.

Differs from the paper in how inference is done: w is one-hot for nearly every image, so the text features of
the N pure keys are computed once, and an image gets a prompt of its own only where its largest weight is
below 1 - DOUBT; `exact` gives every image its own. Ours where the paper is silent: with one domain w = 1.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize

from common.config import Count, NonNegative, Positive, RunConfig, Section
from common.method import Learner, Local, Method, Schedule, Sizes, Tensors, Upload, send_to_all, weighted_mean
from common.optimiser import Step, constant, sgd
from common.prompt import CONTEXT_STD, prompt_encoder
from common.seeding import generator

DOUBT = 2.0**-24
"""Weight on other domains than an image's nearest that is taken for none.

Keys lie in [0, 1), so the prompt is then off by at most DOUBT · |p| in every element, as much as rounding it
to fp32 moves it. Class probabilities are off by less than PROBABILITY_BOUND (tests/test_fedapt.py, with a
logit scale of 100); by 1.2e-7 at most under a random ViT-B/32, with prompts of any size.
"""
PROBABILITY_BOUND = 1e-5
EPS = 1e-6
PROMPTS_AT_ONCE = 512


class Options(Section):
    """FedAPT."""

    context: Literal["class", "generic"] = Field("class", description="a meta prompt a class, or one for all")
    context_tokens: Count = Field(24, description="M; the paper takes 24 with one client a domain, 16 with several")
    temperature: Positive = Field(0.01, description="T, of the softmax over domains in inference")
    exact: bool = Field(default=False, description="infer with a prompt of its own for every image; slow")
    epochs: Count = Field(1, description="local epochs a round")
    batch_size: Count = Field(256, description="images a step")
    lr: Positive = Field(0.01, description="learning rate, constant")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="SGD momentum")
    weight_decay: NonNegative = Field(1e-5, description="SGD weight decay")


def domain_weights(scores: Float[Tensor, "images domains"], temperature: float) -> Float[Tensor, "images domains"]:
    """Softmax(z / T), z the scores standardised over the domains (unbiased deviation); 1 for one domain."""
    if scores.shape[-1] == 1:
        return torch.ones_like(scores)
    spread = scores.std(-1, keepdim=True) + EPS
    return ((scores - scores.mean(-1, keepdim=True)) / spread / temperature).softmax(-1)


class Adaptive(Learner):
    """A meta prompt under the key of the client's domain, or under the mixture that an image asks for."""

    def __init__(self, local: Local, options: Options) -> None:
        super().__init__()
        if local.training and local.domain is None:
            raise ValueError("fedapt: a client whose images are not all of one domain cannot train")
        device = local.clip.device
        self.context = nn.Parameter(local.tensors["context"].to(device, copy=True))
        self.network = nn.Parameter(local.tensors["network"].to(device, copy=True))
        self.keys_NMW = local.tensors["keys"].to(self.context)
        self.domain, self.scale = local.domain or 0, local.clip.logit_scale
        self.temperature, self.doubt = options.temperature, -1.0 if options.exact else DOUBT
        self.class_specific = options.context == "class"
        self.encoder = prompt_encoder(local.clip, local.class_names, options.context_tokens)
        self.images_at_once = max(1, PROMPTS_AT_ONCE // len(local.class_names))
        self.train(local.training)

    def text(self) -> Float[Tensor, "..."]:
        """Text features, in training under the domain's key [C, D], otherwise under each key [N, C, D]."""
        if self.training:
            return self._encode(self.keys_NMW[self.domain])
        return torch.stack([self._encode(key_MW) for key_MW in self.keys_NMW])

    def logits(
        self, features: Float[Tensor, "images D"], text: Float[Tensor, "..."]
    ) -> Float[Tensor, "images classes"]:
        """Class logits s · norm(f) · t; out of training, t depends on the image."""
        unit_BD = self.scale * normalize(features, dim=-1)
        if self.training:
            return unit_BD @ text.T
        weights_BN = domain_weights(linear(features.double(), self.network.double()), self.temperature)
        nearest_B = weights_BN.argmax(-1)
        others_B = weights_BN.scatter(-1, nearest_B[:, None], 0).sum(-1)
        logits_BC = unit_BD.new_empty(len(features), text.shape[-2])
        for domain, text_CD in enumerate(text):
            rows = nearest_B == domain
            logits_BC[rows] = unit_BD[rows] @ text_CD.T
        doubtful = (others_B > self.doubt).nonzero()[:, 0]
        for start in range(0, len(doubtful), self.images_at_once):
            rows = doubtful[start : start + self.images_at_once]
            keys_BMW = torch.einsum("bn,nmw->bmw", weights_BN[rows].to(self.keys_NMW), self.keys_NMW)
            logits_BC[rows] = torch.einsum("bd,bcd->bc", unit_BD[rows], self._encode(keys_BMW))
        return logits_BC

    def loss(self, features: Float[Tensor, "images D"], labels: Int[Tensor, "images"]) -> Float[Tensor, ""]:
        """Cross-entropy over classes, which trains the prompt, and over domains, which alone trains Q."""
        domains = torch.full_like(labels, self.domain)
        return super().loss(features, labels) + cross_entropy(linear(features, self.network), domains)

    def _encode(self, keys: Float[Tensor, "*images M W"]) -> Float[Tensor, "*images classes D"]:
        """Text features under p ⊙ (1 + k)."""
        if self.class_specific:
            return self.encoder.encode_class_contexts(self.context * (1 + keys.unsqueeze(-3)))
        return self.encoder(self.context * (1 + keys))


def make(config: RunConfig, options: Options) -> Method:
    """FedAPT as a federated method."""
    del config

    def first(sizes: Sizes, seed: int) -> Tensors:
        """`context`, p [C, M, W] or [M, W]; `network`, Q [N, D]; `keys` [N, M, W], which stay as they are."""
        if not sizes.domains:
            raise ValueError("fedapt: needs a data set with domains, and this one has none")
        one = (options.context_tokens, sizes.context_width)
        own = (sizes.classes,) if options.context == "class" else ()
        bound = sizes.embed_dim**-0.5
        network = torch.empty(sizes.domains, sizes.embed_dim)
        return {
            "context": torch.randn(*own, *one, generator=generator(seed, "context")) * CONTEXT_STD,
            "network": network.uniform_(-bound, bound, generator=generator(seed, "network")),
            "keys": torch.rand(sizes.domains, *one, generator=generator(seed, "keys")),
        }

    def optimiser(learner: Learner) -> Step:
        groups = [(tuple(learner.parameters()), constant(options.lr))]
        return sgd(groups, momentum=options.momentum, weight_decay=options.weight_decay)

    def aggregate(state: Tensors, uploads: Mapping[str, Upload]) -> Tensors:
        return state | weighted_mean(uploads, uniform=True)

    return Method(
        name="fedapt",
        source="Su, Yang, Li, Xue 2024, arXiv:2211.07864",
        first=first,
        learner=lambda local: Adaptive(local, options),
        schedule=Schedule(options.epochs, options.batch_size, optimiser),
        downlink=send_to_all,
        shared=dict,
        aggregate=aggregate,
        fixed=frozenset({"keys"}),
        by_domain=True,
    )
