"""What every method there is must hold."""

import random

import pytest
import torch
from flwr.app import Message
from pydantic.fields import FieldInfo

from common.config import Scalar
from common.method import Method, Upload, root
from common.methods import METHODS, FullConfig, make_method, parse_config
from common.wire import TrainReply, pack, unpack
from tests.federation import CLASSES, CLIP, SIZES, Federation

SMALL: dict[str, Scalar] = {
    "prompt.context-tokens": 4,
    "prompt.epochs": 2,
    "prompt.batch-size": 4,
    "prompt.lr": 0.05,
    "pfedmoap.gate-width": 8,
    "pfedmoap.gate-heads": 2,
    "pfedmoap.experts": 1,
    "fedclip.batch-size": 4,
    "fedapt.context-tokens": 4,
    "fedapt.batch-size": 4,
}
OTHERS: dict[str, Scalar] = {"pfedmoap.gate-width": 4, "fedapt.temperature": 5.0}
"""Other values that are allowed and show."""
TRAINING = [name for name in METHODS if name != "zeroshot"]


def method(name: str, **changes: Scalar) -> Method:
    return make_method(parse_config(SMALL | {"method": name} | changes))


def outcome(made: Method, rounds: int = 3) -> torch.Tensor:
    federation = Federation(made).run(rounds)
    return torch.cat([federation.logits(name) for name in federation.names])


@pytest.mark.parametrize("name", TRAINING)
def test_personal_tensors_never_leave(name: str) -> None:
    """What is uploaded is exactly what is declared: everything trained that is not personal."""
    made = method(name)
    federation = Federation(made).run(2)
    for client in federation.names:
        upload = federation.uploads[client]
        assert not {root(tensor) for tensor in upload} & made.personal
        assert upload.keys() == {t for t in federation.trained[client] if root(t) not in made.personal}
        assert upload.keys() == {t for t in made.first(SIZES, 0) if root(t) not in made.personal | made.fixed}


@pytest.mark.parametrize("name", METHODS)
def test_personal_tensors_are_never_sent(name: str) -> None:
    """Nothing personal is in the server's state or in what a client receives."""
    made = method(name)
    federation = Federation(made).run(2)
    parcels = made.downlink(federation.state, federation.names, round_=3, seed=0)
    sent = {root(tensor) for parcel in parcels.values() for tensor in parcel.tensors}
    assert not (sent | {root(tensor) for tensor in federation.state}) & made.personal
    assert made.personal <= made.kept


@pytest.mark.parametrize("name", TRAINING)
def test_uploads_survive_the_wire(name: str) -> None:
    """What is aggregated is, bit for bit, what was trained."""
    upload = Federation(method(name)).run(1).uploads["a"]
    reply = TrainReply(client="a", examples=1, parameters=1, loss=0.0, seconds=0.0, tensors=upload)
    arrived = unpack(TrainReply, Message(pack(reply), dst_node_id=1, message_type="train")).tensors
    assert arrived.keys() == upload.keys()
    assert all(torch.equal(arrived[tensor], upload[tensor]) for tensor in upload)


@pytest.mark.parametrize("name", TRAINING)
def test_order_of_clients_does_not_matter(name: str) -> None:
    """Whoever answers first, the next state is the same to the bit."""
    made = method(name)
    federation = Federation(made).run(1)
    uploads = {client: Upload(federation.uploads[client], n + 1) for n, client in enumerate(federation.names)}
    shuffled = list(uploads.items())
    random.Random(0).shuffle(shuffled)
    one, other = made.aggregate(federation.state, uploads), made.aggregate(federation.state, dict(shuffled))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[tensor], other[tensor]) for tensor in one)


@pytest.mark.parametrize("name", TRAINING)
def test_aggregating_equals_changes_nothing(name: str) -> None:
    """The aggregate of equal uploads is that upload."""
    made = method(name)
    upload = Federation(made).run(1).uploads["a"]
    state = made.aggregate(made.first(SIZES, 0), {"x": Upload(upload, 3), "y": Upload(upload, 5)})
    for tensor, value in upload.items():
        torch.testing.assert_close(state[tensor], value)


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_bits(name: str) -> None:
    """A run repeated gives the same logits to the bit, whatever ran in the process in between."""
    first = outcome(method(name))
    torch.randn(3)
    outcome(method("pfedmoap"), rounds=1)
    assert torch.equal(outcome(method(name)), first)


@pytest.mark.parametrize("name", TRAINING)
def test_a_client_depends_on_no_other_that_ran_before_it(name: str) -> None:
    """The same client gives the same bits whether others trained before it in the process or not."""
    made = method(name)
    alone, after = Federation(made).run(2), Federation(made).run(2)
    received = made.downlink(alone.state, alone.names, round_=3, seed=0)
    for other in ("a", "b", "c"):
        after.train(other, received[other].tensors, 3)
    alone.train("d", received["d"].tensors, 3)
    after.train("d", received["d"].tensors, 3)
    assert all(torch.equal(alone.trained["d"][tensor], after.trained["d"][tensor]) for tensor in alone.trained["d"])


@pytest.mark.parametrize("name", TRAINING)
def test_seed_matters(name: str) -> None:
    """Seed 0 is a seed: the same every time, and another than seed 1."""
    made = method(name)
    logits = [Federation(made, seed=seed).run(1).logits("a") for seed in (0, 0, 1)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_promptfl_with_one_client_is_coop() -> None:
    """Averaging over a single client is training locally, round after round, to the bit."""
    one, local = Federation(method("promptfl"), names=("a",)), Federation(method("coop"), names=("a",))
    assert torch.equal(one.run(3).logits("a"), local.run(3).logits("a"))


def test_first_round_of_pfedmoap_is_promptfl() -> None:
    """Before there are experts, pFedMoAP's local step is PromptFL's, to the bit."""
    ours, theirs = Federation(method("pfedmoap")).run(1), Federation(method("promptfl")).run(1)
    for client in ours.names:
        assert torch.equal(ours.uploads[client]["context"], theirs.uploads[client]["context"])
        assert ours.private[client].keys() == {"context"}


@pytest.mark.parametrize(
    ("name", "option", "weights"),
    [
        ("promptfl", {}, (0.25, 0.75)),
        ("fedprox", {}, (0.25, 0.75)),
        ("pfedmoap", {}, (0.25, 0.75)),
        ("fedclip", {}, (0.5, 0.5)),
        ("fedclip", {"fedclip.weighting": "examples"}, (0.25, 0.75)),
        ("fedapt", {}, (0.5, 0.5)),
    ],
)
def test_how_clients_count(name: str, option: dict[str, Scalar], weights: tuple[float, float]) -> None:
    """The mean weighs clients by their training images, or alike where METHODS says so."""
    made = method(name, **option)
    federation = Federation(made).run(1)
    one, other = federation.uploads["a"], federation.uploads["b"]
    state = made.aggregate(federation.state, {"a": Upload(one, 10), "b": Upload(other, 30)})
    for tensor, value in one.items():
        torch.testing.assert_close(state[tensor], weights[0] * value + weights[1] * other[tensor])


def test_fedprox_without_its_term_is_promptfl() -> None:
    """mu = 0 is plain FedAvg; any other mu is not."""
    plain = outcome(method("promptfl"))
    assert torch.equal(outcome(method("fedprox", **{"fedprox.mu": 0.0})), plain)
    assert not torch.equal(outcome(method("fedprox")), plain)


def test_fedprox_against_its_formula() -> None:
    """The loss gains (mu/2)·|P - P_g|², with P_g the context as it was received."""
    federation = Federation(method("fedprox", **{"fedprox.mu": 0.3}))
    features, labels = federation.data("a")
    learner = federation.method.learner(federation.local("a", {}, training=True))
    plain = Federation(method("promptfl")).method.learner(federation.local("a", {}, training=True))
    with torch.no_grad():
        received = learner.context.clone()
        learner.context += 0.5
        plain.context += 0.5
    expected = plain.loss(features, labels) + 0.15 * (learner.context - received).square().sum()
    torch.testing.assert_close(learner.loss(features, labels), expected)


def _other(value: Scalar, field: FieldInfo) -> Scalar:
    """Another value that the option allows."""
    choices = [
        choice
        for part in (field.annotation, *getattr(field.annotation, "__args__", ()))
        for choice in getattr(part, "__args__", ())
        if isinstance(choice, str)
    ]
    if isinstance(value, str):
        return next((choice for choice in choices if choice != value), value.replace("photo", "sketch"))
    if isinstance(value, bool):
        return not value
    return value * 2 if isinstance(value, int) else value / 2 or 0.5


def _options() -> list[tuple[str, str, Scalar]]:
    """(method, dotted option, another value) for the options of every method's own section and of `prompt`."""
    found = []
    for name in METHODS:
        sections = [name] if name in {"zeroshot", "fedclip", "fedapt"} else [name, "prompt"]
        for section in sections:
            model = type(getattr(FullConfig(), section))
            for key, info in model.model_fields.items():
                dotted = f"{section}.{info.alias or key}"
                base = SMALL.get(dotted, getattr(getattr(FullConfig(), section), key))
                if dotted != "fedapt.exact":  # changes what inference costs; tests/test_fedapt.py holds both together
                    found.append((name, dotted, OTHERS.get(dotted) or _other(base, info)))
    return found


@pytest.mark.parametrize(("name", "option", "value"), _options())
def test_every_option_changes_something(name: str, option: str, value: Scalar) -> None:
    """No option is parsed and forgotten: another value gives other logits."""
    if option.endswith("warmup-epochs"):
        value = 1
    assert not torch.equal(outcome(method(name, **{option: value})), outcome(method(name)))


def test_there_are_classes_to_tell_apart() -> None:
    """The small federation of these tests has more than one class, and features of the CLIP's width."""
    assert len(CLASSES) > 1
    assert Federation(method("zeroshot")).data("a")[0].shape[1] == CLIP.embed_dim
