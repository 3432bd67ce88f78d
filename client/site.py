"""A client's own world: its images as features, its labels, its CLIP. Opened once in a process, never sent."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context
from jaxtyping import Float, Int
from torch import Tensor

from client.state import PrivateState
from common.clip import FrozenClip
from common.config import RunConfig
from common.data import Task
from common.partition import Part
from common.views import Views
from common.world import assignment_of, clip_of, task_of, views_of


@dataclass(frozen=True)
class Site:
    """One client: who it is, and which rows of which data are its own."""

    name: str
    task: Task
    part: Part
    config: RunConfig
    state_root: Path

    @property
    def clip(self) -> FrozenClip:
        """The frozen CLIP, shared by all sites of a process."""
        return clip_of(self.config)

    @property
    def domain(self) -> str:
        """The name of the site's domain, where all of its images are of one; else empty."""
        if not self.task.domain_names:
            return ""
        rows = np.concatenate([self.part.train, self.part.test, self.part.validation])
        domains = np.unique(self.task.column("domain")[rows])
        return self.task.domain_names[domains[0]] if len(domains) == 1 else ""

    @cached_property
    def _views(self) -> Views:
        return views_of(self.config, self.task)

    def labels(self, rows: Int[np.ndarray, "rows"]) -> Int[Tensor, "rows"]:
        """Class of each row, on the CLIP's device."""
        return torch.from_numpy(self.task.column("label")[rows]).to(self.clip.device)

    def counts(self, rows: Int[np.ndarray, "rows"]) -> tuple[int, ...]:
        """Images per class among the rows."""
        return tuple(np.bincount(self.task.column("label")[rows], minlength=len(self.task.class_names)).tolist())

    def draw(self, positions: Int[Tensor, "batch"], rng: torch.Generator) -> Float[Tensor, "batch D"]:
        """One training view of each of the training images at these positions."""
        return self._views.draw(self.part.train[positions.numpy()], rng).to(self.clip.device)

    def fixed(self, rows: Int[np.ndarray, "images"]) -> Float[Tensor, "images D"]:
        """The images under the fixed preprocessing."""
        return self._views.fixed(rows)

    def state(self, run: str) -> PrivateState:
        """Where the site keeps its private tensors of a run."""
        return PrivateState(self.state_root / run / self.name)


def open_site(context: Context, config: RunConfig) -> Site:
    """The site that this Flower node is.

    A simulated node is the client at its position in the partition.

    Raises:
        ValueError: there are more or fewer nodes than clients in the partition; one line.
    """
    node = context.node_config
    assignment = assignment_of(config)
    position, count = int(node["partition-id"]), int(node["num-partitions"])
    if count != len(assignment.parts):
        raise ValueError(
            f"{count} virtual nodes for {len(assignment.parts)} clients, one that only tests included: "
            "start as many nodes as clients"
        )
    return Site(
        name=assignment.names[position],
        task=task_of(config),
        part=assignment.parts[position],
        config=config,
        state_root=Path(config.out) / "private",
    )
