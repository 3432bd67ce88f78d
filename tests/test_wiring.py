"""Whole runs of the real apps against the computation written out: who starts from what, and is judged with what."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from client.train import train
from common.config import RunConfig, Scalar
from common.method import Local, Sizes, Tensors, Upload
from common.methods import make_method, parse_config
from common.seeding import generator
from common.world import assignment_of, clip_of, task_of, views_of
from tests.local_grid import run

ROUNDS = 3
SEED = 3


class Oracle:
    """A federation as METHODS writes it, in one loop over the features that the real run uses."""

    def __init__(self, config: RunConfig) -> None:
        self.task, self.clip, assignment = task_of(config), clip_of(config), assignment_of(config)
        self.views, self.method = views_of(config, self.task), make_method(config)
        self.parts = dict(zip(assignment.names, assignment.parts, strict=True))
        names = self.task.class_names
        self.first = self.method.first(Sizes(len(names), 2, self.clip.embed_dim, self.clip.context_width), SEED)
        self.global_ = self.first
        self.own: dict[str, Tensors] = {name: {} for name in self.parts}

    def learner(self, name: str, tensors: Tensors, *, training: bool) -> torch.nn.Module:
        """A client's learner from these tensors alone."""
        task = self.task
        domain = int(task.column("domain")[self.parts[name].train[0]])
        given = self.first | tensors
        return self.method.learner(
            Local(self.clip, task.class_names, task.domain_names, domain, given, SEED, training=training)
        )

    def labels(self, rows: np.ndarray) -> Tensor:
        """Classes of these images."""
        return torch.from_numpy(self.task.column("label")[rows])

    def round(self, number: int) -> None:
        """Every client trains from the global tensors and, where it has one, its gate; then they are averaged."""
        parcels = self.method.downlink(self.global_, sorted(self.parts), round_=number, seed=SEED)
        uploads = {}
        for name, part in self.parts.items():
            start = parcels[name].tensors
            start |= {key: value for key, value in self.own[name].items() if key not in start}
            rows, learner = part.train, self.learner(name, start, training=True)
            rng = generator(SEED, "train", name, number)
            assert self.method.schedule is not None
            outcome = train(
                learner,
                self.method.schedule,
                lambda at, rng, rows=rows: self.views.draw(rows[at.numpy()], rng),
                self.labels(rows),
                rng,
            )
            self.own[name] = self.method.keeps(outcome.tensors)
            uploads[name] = Upload(self.method.uploads(outcome.tensors), len(rows))
        self.global_ = self.method.aggregate(self.global_, uploads)

    @torch.no_grad()
    def judged(self, name: str, tensors: Tensors) -> tuple[int, Any]:
        """(correct, about the summed cross-entropy) of these tensors on a client's test images."""
        rows, learner = self.parts[name].test, self.learner(name, tensors, training=False).eval()
        logits, labels = learner.logits(self.views.fixed(rows), learner.text()), self.labels(rows)
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        return int((logits.argmax(-1) == labels).sum()), pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("method", ["coop", "promptfl", "fedprox", "fedclip", "pfedmoap", "fedapt"])
def test_a_run_is_what_the_method_says(settings: dict[str, Scalar], tmp_path: Path, method: str) -> None:
    """Training starts from the server's tensors and the client's gate; evaluation uses the client's own."""
    changes: dict[str, Scalar] = {
        "method": method,
        "rounds": ROUNDS,
        "seed": SEED,
        "prompt.lr": 0.5,
        "pfedmoap.gate-lr": 0.5,
        "fedclip.lr": 0.05,
        "fedapt.context-tokens": 4,
    }
    record = run(settings | changes, tmp_path / "run")
    oracle = Oracle(parse_config(settings | changes))
    for number in range(1, ROUNDS + 1):
        oracle.round(number)
    state = load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert state.keys() == oracle.global_.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, oracle.global_[name], rtol=1e-5, atol=1e-6)
    parcels = oracle.method.downlink(oracle.global_, sorted(oracle.parts), round_=ROUNDS + 1, seed=SEED)
    expected = {name: oracle.judged(name, parcels[name].tensors | oracle.own[name]) for name in oracle.parts}
    answers = {(e.question, e.client): (e.correct, e.loss) for e in record.rounds[-1].evaluated}
    assert {name: answers["personal", name] for name in expected} == expected
    for path in (tmp_path / "run" / "private").glob(f"*/*/round-{ROUNDS:05}.safetensors"):
        for name, tensor in load_file(path).items():
            torch.testing.assert_close(tensor, oracle.own[path.parent.name][name], rtol=1e-5, atol=1e-6)
    if method == "pfedmoap":
        alone = {name: oracle.judged(name, {"context": oracle.global_["context"]}) for name in oracle.parts}
        assert {name: answers["global", name] for name in alone} == alone
        assert all(answers["global", name] != answers["personal", name] for name in alone)
