import math
import stat
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import nn

from client.state import PrivateState
from client.train import evaluate, train
from common.atomic import replacing
from common.methods import make_method, parse_config
from common.optimiser import adam, constant, sgd
from common.seeding import generator
from tests.federation import Federation


def gate(value: float) -> dict[str, torch.Tensor]:
    return {"gate.query.weight": torch.full((2, 2), value)}


def test_private_state_goes_on_from_what_counted(tmp_path: Path) -> None:
    """A round that was repeated, refused or lost with the server leaves no trace in what the next one starts from."""
    state = PrivateState(tmp_path / "site")
    assert state.load(0) == {}
    state.save(1, gate(1.0), also_keep=0)
    state.save(2, gate(2.0), also_keep=1)
    state.save(3, gate(3.0), also_keep=1)
    assert torch.equal(state.load(1)["gate.query.weight"], gate(1.0)["gate.query.weight"])
    state.save(2, gate(2.5), also_keep=1)
    assert torch.equal(state.load(2)["gate.query.weight"], gate(2.5)["gate.query.weight"])
    state.save(3, gate(3.5), also_keep=2)
    assert torch.equal(state.load(3)["gate.query.weight"], gate(3.5)["gate.query.weight"])
    assert sorted(path.name for path in state.folder.iterdir()) == [
        "round-00002.safetensors",
        "round-00003.safetensors",
    ]


def test_a_late_end_of_an_earlier_round_deletes_nothing_newer(tmp_path: Path) -> None:
    """A training that outlived its round leaves alone what later rounds stand on."""
    state = PrivateState(tmp_path / "site")
    state.save(3, gate(3.0), also_keep=0)
    state.save(6, gate(6.0), also_keep=3)
    state.save(5, gate(5.0), also_keep=3)
    assert state.load(6)
    assert state.load(3)


def test_private_state_is_the_owner_s_alone(tmp_path: Path) -> None:
    """Nobody but the owner can read the folder or a file in it."""
    state = PrivateState(tmp_path / "site")
    state.save(1, gate(1.0), also_keep=0)
    assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in state.folder.iterdir())


def test_lost_private_state_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that lost the gate is said in the log, and the client goes on with a new one."""
    assert PrivateState(tmp_path).load(3) == {}
    assert "start anew" in caplog.text


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    """Whatever happens while a file is written, what stood there before still stands, and nothing lies beside it."""
    path = tmp_path / "record.json"
    path.write_text("before")

    def half() -> None:
        with replacing(path) as beside:
            beside.write_text("half")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_learning_rate_decays_over_the_round_s_epochs() -> None:
    """The prompt's rate follows the cosine over the local epochs, warm-up at 1e-5 first; the gate's stays."""
    method = make_method(
        parse_config(
            {
                "prompt.warmup-epochs": 1,
                "prompt.momentum": 0,
                "prompt.weight-decay": 0,
                "pfedmoap.gate-width": 8,
                "prompt.context-tokens": 4,
            }
        )
    )
    federation = Federation(method)
    experts = torch.zeros(2, 4, 16)
    learner = method.learner(federation.local("a", {"experts": experts}, training=True))
    assert method.schedule is not None
    step = method.schedule.optimiser(learner)
    gate = dict(learner.named_parameters())["gate.query.weight"]
    rates = []
    for epoch in range(5):
        for parameter in learner.parameters():
            parameter.data.zero_()
            parameter.grad = torch.ones_like(parameter)
        step(epoch)
        rates.append([-learner.context.flatten()[0].item(), -gate.flatten()[0].item()])
    cosine = [0.002 * 0.5 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(1, 5)]
    assert [pair[0] for pair in rates] == pytest.approx([1e-5, *cosine])
    assert [pair[1] for pair in rates] == pytest.approx([0.01] * 5)


def test_optimisers_against_torch_s_own() -> None:
    """Our steps give the bits of torch.optim's classes, each group at its own rate."""
    start = [torch.randn(3, 2, generator=generator(0, name)) for name in ("a", "b")]
    gradients = [[torch.randn(3, 2, generator=generator(0, i, name)) for name in ("a", "b")] for i in range(4)]
    adam_options = {"lr": 0.1, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.2}

    def moved(step_of: Callable[[list[nn.Parameter]], Callable[[int], object]]) -> list[torch.Tensor]:
        parameters = [nn.Parameter(tensor.clone()) for tensor in start]
        step = step_of(parameters)
        for i, pair in enumerate(gradients):
            for parameter, gradient in zip(parameters, pair, strict=True):
                parameter.grad = gradient.clone()
            step(i)
        return [parameter.detach() for parameter in parameters]

    def sgd_class(parameters: list[nn.Parameter]) -> Callable[[int], object]:
        groups = [{"params": [parameters[0]], "lr": 0.1}, {"params": [parameters[1]], "lr": 0.01}]
        optimiser = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)
        return lambda _: optimiser.step()

    def adam_class(parameters: list[nn.Parameter]) -> Callable[[int], object]:
        optimiser = torch.optim.Adam(parameters, **adam_options)
        return lambda _: optimiser.step()

    def sgd_ours(parameters: list[nn.Parameter]) -> Callable[[int], object]:
        groups = [([parameters[0]], constant(0.1)), ([parameters[1]], constant(0.01))]
        return sgd(groups, momentum=0.9, weight_decay=5e-4)

    for ours, theirs in ((sgd_ours, sgd_class), (lambda each: adam(each, **adam_options), adam_class)):
        for one, other in zip(moved(ours), moved(theirs), strict=True):
            assert torch.equal(one, other)


def test_every_image_is_trained_on_once_an_epoch() -> None:
    """The last, smaller batch counts too, and the order is another in every epoch."""
    small = {"method": "promptfl", "prompt.context-tokens": 4, "prompt.batch-size": 4}
    federation = Federation(make_method(parse_config(small)))
    features, labels = federation.data("d")
    seen: list[list[int]] = []

    def draw(at: torch.Tensor, _: torch.Generator) -> torch.Tensor:
        seen.append(at.tolist())
        return features[at]

    method = federation.method
    learner = method.learner(federation.local("d", {}, training=True))
    assert method.schedule is not None
    outcome = train(learner, method.schedule, draw, labels, generator(0, "x"))
    steps = math.ceil(len(labels) / 4)
    epochs = [list(chain(*seen[start : start + steps])) for start in range(0, len(seen), steps)]
    assert len(epochs) == 5
    assert all(sorted(epoch) == list(range(len(labels))) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert math.isfinite(outcome.loss)


def test_evaluation_counts() -> None:
    """Correct answers and summed cross-entropy are those of the logits, whatever the batches."""
    federation = Federation(make_method(parse_config({"method": "zeroshot"})))
    features, labels = federation.data("d")
    learner = federation.method.learner(federation.local("d", {}, training=False))
    texts: list[None] = []
    text = learner.text
    learner.text = lambda: texts.append(None) or text()
    (correct, loss), other, none = evaluate(
        learner, (features, labels), (features[:2], labels[:2]), (features[:0], labels[:0])
    )
    logits = federation.logits("d")
    right = logits.argmax(-1) == labels
    assert correct == int(right.sum())
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item(), rel=1e-5)
    assert (other[0], none) == (int(right[:2].sum()), (0, 0.0))
    assert len(texts) == 1
