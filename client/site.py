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
from common.assignment import Assignment, Part, no_rows
from common.clip import FrozenClip
from common.config import RunConfig
from common.data import Task, few_shots, load_site
from common.holdout import with_validation
from common.site_options import SiteOptions, parse_site
from common.views import Views
from common.wire import Request
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
        if not run.isalnum():
            raise ValueError(f"run {run!r}: must be letters and digits, as it names a folder")
        return PrivateState(self.state_root / run / self.name)


def open_site(context: Context, request: Request, config: RunConfig) -> Site:
    """The site that this Flower node is: a real one by its own options, a simulated one by its position.

    Raises:
        ValueError: its data cannot be used; or there are more or fewer nodes than clients in the partition; one line.
    """
    node = context.node_config
    if "data" in node:
        return _real_site(parse_site(dict(node)), request, config)
    if "partition-id" not in node:
        raise ValueError("this node was started without a site's options; start it by flower-client")
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


def _real_site(options: SiteOptions, request: Request, config: RunConfig) -> Site:
    """The site with its own data, CLIP, device and folders, whatever the server's configuration says of those."""
    own_clip = {"model": options.model, "pretrained": options.pretrained, "device": options.device}
    config = config.model_copy(
        update={
            "clip": config.clip.model_copy(update=own_clip),
            "data": config.data.model_copy(update={"cache": options.cache}),
        }
    )
    task = load_site(
        options.data,
        request.class_names,
        domain=options.domain,
        test_share=options.test_share,
        seed=config.seed,
        broken_share=config.data.broken_share,
        cache=options.cache,
    )
    return Site(
        name=options.name,
        task=task,
        part=_own_part(task, options, config),
        config=config,
        state_root=Path(options.state) / "private",
    )


def _own_part(task: Task, options: SiteOptions, config: RunConfig) -> Part:
    if options.domain and options.domain == config.partition.unseen:
        return Part(no_rows(), np.arange(len(task.test)))
    train = few_shots(task, config.data.shots, config.seed) if config.data.shots else np.flatnonzero(~task.test)
    part = Part(train, np.flatnonzero(task.test))
    if not config.data.validation_share:
        return part
    alone = Assignment((part,), "", (options.name,), (None,))
    return with_validation(alone, task, config.data.validation_share, config.seed).parts[0]
