"""A federation without Flower: the same learners, loops and aggregation in one process, on random features."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from client.train import train
from common.method import Local, Method, Sizes, Tensors, Upload
from common.seeding import generator
from tests.tiny_clip import tiny_clip

CLASSES = ("cat", "traffic light", "sea_lion")
DOMAINS = ("photo", "sketch")
CLIP = tiny_clip(dtype=torch.float32)
SIZES = Sizes(len(CLASSES), len(DOMAINS), CLIP.embed_dim, CLIP.context_width)


@dataclass
class Federation:
    """Four clients, two of each domain, and all that a run leaves."""

    method: Method
    seed: int = 0
    state: Tensors = field(default_factory=dict)
    private: dict[str, Tensors] = field(default_factory=dict)
    uploads: dict[str, Tensors] = field(default_factory=dict)
    trained: dict[str, Tensors] = field(default_factory=dict)
    names: tuple[str, ...] = ("a", "b", "c", "d")

    def __post_init__(self) -> None:
        first = self.method.first(SIZES, self.seed)
        self.state = {n: v for n, v in first.items() if n.split(".")[0] not in self.method.personal}

    def data(self, name: str) -> tuple[Tensor, Tensor]:
        """A client's features and labels, 6 images or more: its own, whatever the seed of the run."""
        rng, count = generator(7, "data", name), 6 + self.names.index(name)
        labels = torch.randint(len(CLASSES), (count,), generator=rng)
        return torch.randn(count, CLIP.embed_dim, generator=rng) + labels[:, None], labels

    def local(self, name: str, tensors: Mapping[str, Tensor], *, training: bool) -> Local:
        """What a client's learner is made from."""
        return Local(
            clip=CLIP,
            class_names=CLASSES,
            domain_names=DOMAINS,
            domain=self.names.index(name) % 2,
            tensors=self.method.first(SIZES, self.seed) | dict(tensors),
            seed=self.seed,
            training=training,
        )

    def train(self, name: str, received: Tensors, round_: int) -> None:
        """One client's local round, as the ClientApp does it."""
        assert self.method.schedule is not None
        features, labels = self.data(name)
        own = self.private.get(name, {})
        learner = self.method.learner(self.local(name, own | received, training=True))
        rng = generator(self.seed, "train", name, round_)
        outcome = train(learner, self.method.schedule, lambda at, _: features[at], labels, rng)
        self.trained[name] = outcome.tensors
        self.private[name] = self.method.keeps(outcome.tensors)
        self.uploads[name] = self.method.uploads(outcome.tensors)

    def run(self, rounds: int) -> "Federation":
        """So many rounds with all clients."""
        for round_ in range(1, rounds + 1):
            if self.method.schedule is None:
                break
            parcels = self.method.downlink(self.state, self.names, round_=round_, seed=self.seed)
            for name in self.names:
                self.train(name, parcels[name].tensors, round_)
            uploads = {name: Upload(self.uploads[name], len(self.data(name)[1])) for name in self.names}
            self.state = self.method.aggregate(self.state, uploads)
        return self

    @torch.no_grad()
    def logits(self, name: str) -> Tensor:
        """A client's logits on its own images, as evaluation computes them."""
        parcel = self.method.downlink(self.state, [name], round_=99, seed=self.seed)[name]
        learner = self.method.learner(
            self.local(name, parcel.tensors | self.private.get(name, {}), training=False)
        ).eval()
        return learner.logits(self.data(name)[0], learner.text())
