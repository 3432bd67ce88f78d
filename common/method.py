"""What a federated method is: a record of a few pure functions. One file in `common/methods` makes one.

The framework calls the method; the method never calls the framework and never sees Flower. Tensors are passed
as flat dicts by name, so that a checkpoint, a message and a client's private file all hold the same thing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from common.clip import FrozenClip
from common.config import PromptOptions
from common.optimiser import Step, constant, sgd

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Sizes that decide the shapes of trainable tensors."""

    classes: int
    domains: int
    embed_dim: int
    context_width: int


@dataclass(frozen=True)
class Parcel:
    """What one client receives, and which clients' uploads it was made from (for the record; never sent)."""

    tensors: Tensors
    drew_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Upload:
    """What one client sent back, and how many training images stand behind it."""

    tensors: Tensors
    examples: int


@dataclass(frozen=True)
class Local:
    """What a learner is made from on one client."""

    clip: FrozenClip
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    domain: int | None
    tensors: Tensors
    """Received and own tensors together; what is missing starts from its first value."""
    seed: int
    training: bool


class Learner(nn.Module):
    """Turns image features into class logits; its parameters are what is trained.

    `text` is what does not depend on the images: computed at every training step, but once per evaluation.
    """

    def text(self) -> Tensor:
        """Text features for `logits`."""
        raise NotImplementedError

    def logits(self, features: Float[Tensor, "images D"], text: Tensor) -> Float[Tensor, "images classes"]:
        """Class logits of un-normalised image features."""
        raise NotImplementedError

    def loss(self, features: Float[Tensor, "images D"], labels: Int[Tensor, "images"]) -> Float[Tensor, ""]:
        """Cross-entropy over all classes, unless the method has a loss of its own."""
        return nn.functional.cross_entropy(self.logits(features, self.text()), labels)


@runtime_checkable
class Downlink(Protocol):
    """What each client receives, decided by the state before the round alone."""

    def __call__(self, state: Tensors, clients: Sequence[str], *, round_: int, seed: int) -> dict[str, Parcel]:
        """One parcel for each of `clients`."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How long and in which steps a client trains in one round."""

    epochs: int
    batch_size: int
    optimiser: Callable[[Learner], Step]
    """A fresh optimiser: nothing outlives the round."""


@dataclass(frozen=True)
class Method:
    """A federated method."""

    name: str
    source: str
    """The paper, as its authors, year and arXiv number."""
    first: Callable[[Sizes, int], Tensors]
    """(sizes, seed) -> the server's first state; also where a client starts with what it never receives."""
    learner: Callable[[Local], Learner]
    schedule: Schedule | None
    """None where nothing is trained."""
    downlink: Downlink
    aggregate: Callable[[Tensors, Mapping[str, Upload]], Tensors]
    """(state, uploads by client) -> the next state. The order of clients does not matter."""
    personal: frozenset[str] = field(default_factory=frozenset)
    """First parts of dotted tensor names that never leave the client."""
    fixed: frozenset[str] = field(default_factory=frozenset)
    """First parts of the names in the server's state that are never trained."""
    kept: frozenset[str] = field(default_factory=frozenset)
    """First parts of the names that a client stores for its own use; holds `personal`."""
    shared: Callable[[Tensors], Tensors] | None = None
    """State -> the server's model alone, for clients with nothing of their own; None where there is none."""
    welcome: Callable[[Tensors], Tensors] | None = None
    """State -> what a client that never trained is sent to train from; None: the same as `shared`."""
    by_domain: bool = False
    """Whether a client can only train if its images are all of one domain."""

    def uploads(self, trained: Tensors) -> Tensors:
        """What leaves the client: everything trained that is not personal."""
        return {name: value for name, value in trained.items() if root(name) not in self.personal}

    def keeps(self, trained: Tensors) -> Tensors:
        """What the client stores."""
        return {name: value for name, value in trained.items() if root(name) in self.kept}


def root(name: str) -> str:
    """The first part of a dotted tensor name: `gate` of `gate.query.weight`."""
    return name.split(".", 1)[0]


def send_to_all(state: Tensors, clients: Sequence[str], *, round_: int, seed: int) -> dict[str, Parcel]:
    """The downlink of methods whose clients all receive the whole state."""
    del round_, seed
    return {client: Parcel(dict(state)) for client in clients}


def send_nothing(state: Tensors, clients: Sequence[str], *, round_: int, seed: int) -> dict[str, Parcel]:
    """The downlink of methods in which nothing travels."""
    del state, round_, seed
    return {client: Parcel({}) for client in clients}


def keep_state(state: Tensors, uploads: Mapping[str, Upload]) -> Tensors:
    """The aggregation of methods in which nothing is shared."""
    del uploads
    return state


def weighted_mean(uploads: Mapping[str, Upload], *, uniform: bool = False) -> Tensors:
    """Mean of the uploads by name, weighted by examples (FedAvg, arXiv:1602.05629) or uniformly.

    Summed in float64 in the order of the clients' names, so that the order of arrival changes no bit.
    """
    ordered = [uploads[name] for name in sorted(uploads)]
    weights = torch.tensor([1 if uniform else upload.examples for upload in ordered], dtype=torch.float64)
    weights = weights / weights.sum()
    return {
        name: sum(
            (weight * upload.tensors[name].double() for weight, upload in zip(weights, ordered, strict=True)),
            torch.zeros(()),
        ).to(value.dtype)
        for name, value in ordered[0].tensors.items()
    }


def prompt_schedule(options: PromptOptions, *, fixed: Mapping[str, float] | None = None) -> Schedule:
    """SGD with cosine decay over the round's local epochs, as CoOp trains its context (arXiv:2109.01134).

    `fixed` gives tensors, by the first part of their name, a learning rate of their own that does not decay.
    Warm-up epochs, where there are any, run at 1e-5 in place of the first of the cosine.
    """
    rates = dict(fixed or {})

    def decay(epoch: int) -> float:
        if epoch < options.warmup_epochs:
            return 1e-5
        return options.lr * 0.5 * (1 + math.cos(math.pi * epoch / options.epochs))

    def optimiser(learner: Learner) -> Step:
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in learner.named_parameters():
            groups.setdefault(root(name) if root(name) in rates else "", []).append(parameter)
        return sgd(
            [(group, constant(rates[name]) if name in rates else decay) for name, group in groups.items()],
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )

    return Schedule(options.epochs, options.batch_size, optimiser)
