import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from common.method import Learner, Local, Method, Sizes, Tensors, Upload
from common.methods import make_method, parse_config
from common.methods.fedapt import DOUBT, PROBABILITY_BOUND, domain_weights
from common.prompt import prompt_encoder
from tests.tiny_clip import tiny_clip

CLIP = tiny_clip(init_logit_scale=math.log(100))
CLASSES = ("cat", "traffic light", "sea_lion")
DOMAINS = ("photo", "sketch", "painting", "cartoon")
D, M = CLIP.embed_dim, 4
LABELS = torch.tensor([0, 1, 2, 2, 1, 0])
KINDS = pytest.mark.parametrize("context", ["class", "generic"])


def method(**options: bool | float | str) -> Method:
    """FedAPT with four context tokens and these options."""
    flat = {"method": "fedapt", "fedapt.context-tokens": M}
    return make_method(parse_config(flat | {f"fedapt.{key}": value for key, value in options.items()}))


def tensors(made: Method, domains: int = len(DOMAINS), seed: int = 0) -> Tensors:
    """A first state in fp64."""
    first = made.first(Sizes(len(CLASSES), domains, D, CLIP.context_width), seed)
    return {name: value.double() for name, value in first.items()}


def learner(made: Method, given: Tensors, *, domain: int | None = None) -> Learner:
    """A client's learner: in training, with a domain; in evaluation, without."""
    names = DOMAINS[: len(given["keys"])]
    return made.learner(Local(CLIP, CLASSES, names, domain, given, seed=0, training=domain is not None))


def features(count: int = 6, seed: int = 2) -> Tensor:
    """Random image features, [count, D]."""
    return 4 * torch.randn(count, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def logits_as_written(state: Tensors, image: Tensor, key: Tensor) -> Tensor:
    """One image's logits under p ⊙ (1 + key), one class at a time."""
    found = []
    for index, name in enumerate(CLASSES):
        context = state["context"] if state["context"].ndim == 2 else state["context"][index]
        text = prompt_encoder(CLIP, (name,), M)(context * (1 + key))[0]
        found.append(CLIP.logit_scale * (image / image.norm()) @ text)
    return torch.stack(found)


def mixture_as_written(state: Tensors, image: Tensor) -> Tensor:
    """Σ w_d k_d of METHODS, section 3, for one image."""
    scores = state["network"] @ image
    count = len(scores)
    mean = scores.sum() / count
    spread = ((scores - mean).square().sum() / (count - 1)).sqrt() + 1e-6
    powers = ((scores - mean) / spread / 0.01).exp()
    return sum(weight * key for weight, key in zip(powers / powers.sum(), state["keys"], strict=True))


@KINDS
def test_training_against_the_formula(context: str) -> None:
    """The loss is that of p ⊙ (1 + k_d) plus the domain's; p learns from the one, Q from the other."""
    made = method(context=context)
    state = tensors(made)
    ours = learner(made, state, domain=2)
    leaves = {name: state[name].clone().requires_grad_() for name in ("context", "network")}
    logits = torch.stack([logits_as_written(state | leaves, image, state["keys"][2]) for image in features()])
    classes = cross_entropy(logits, LABELS)
    domains = cross_entropy(features() @ leaves["network"].T, torch.full((6,), 2))
    actual = ours.loss(features(), LABELS)
    torch.testing.assert_close(actual, classes + domains, rtol=1e-10, atol=1e-10)
    assert [name for name, _ in ours.named_parameters()] == ["context", "network"]
    mine = torch.autograd.grad(actual, list(ours.parameters()))
    for one, term, leaf in zip(mine, (classes, domains), leaves.values(), strict=True):
        torch.testing.assert_close(one, torch.autograd.grad(term, leaf)[0], rtol=1e-9, atol=1e-10)


@KINDS
@pytest.mark.parametrize("exact", [True, False])
@torch.no_grad()
def test_inference_against_the_formula(context: str, exact: bool) -> None:
    """Logits are those under the image's own mixture of keys: of all images, or of the doubtful ones."""
    made = method(context=context, exact=exact)
    state = tensors(made)
    state["network"] *= 0.02
    images = features(30)
    ours = learner(made, state)
    weights = domain_weights(images @ state["network"].T, 0.01)
    doubtful = 1 - weights.amax(-1) > DOUBT
    assert 0 < doubtful.sum() < len(images)
    expected = torch.stack([logits_as_written(state, image, mixture_as_written(state, image)) for image in images])
    actual = ours.logits(images, ours.text())
    chosen = torch.ones_like(doubtful) if exact else doubtful
    torch.testing.assert_close(actual[chosen], expected[chosen], rtol=1e-10, atol=1e-10)


def at_the_bound(count: int) -> tuple[Tensor, Tensor]:
    """(images, Q) of three domains at which an image's second domain weighs just less than DOUBT."""
    gap = 0.01 * math.log(1 / DOUBT) * (1 + 1e-5)
    angle = math.pi / 3 - math.asin(gap / 2)
    turns = torch.tensor([0, 2 * math.pi / 3, -2 * math.pi / 3], dtype=torch.float64)
    images = features(count)
    for row, image in enumerate(images):
        image[:3] = 2 * torch.cos(angle - turns).roll(row)
    return images, torch.eye(3, D, dtype=torch.float64)


@KINDS
@pytest.mark.parametrize("size", [1, 50])
@torch.no_grad()
def test_bound_of_the_fast_path(context: str, size: int) -> None:
    """Where as much is neglected as ever is, class probabilities are within PROBABILITY_BOUND."""
    images, network = at_the_bound(12)
    others = 1 - domain_weights(images @ network.T, 0.01).amax(-1)
    assert ((others > 0.99 * DOUBT) & (others < DOUBT)).all()
    state = tensors(method(context=context), 3) | {"network": network}
    state["context"] *= size
    fast, exact = (
        made.logits(images, made.text())
        for made in (learner(method(context=context, exact=path), state) for path in (False, True))
    )
    worst = (fast.softmax(-1) - exact.softmax(-1)).abs().max()
    assert 0 < worst < PROBABILITY_BOUND


@settings(deadline=None)
@given(
    scores=st.lists(st.floats(-50, 50), min_size=2, max_size=6),
    shift=st.floats(-5, 5),
    seed=st.integers(0, 100),
)
def test_what_the_fast_path_neglects(scores: list[float], shift: float, seed: int) -> None:
    """Weights sum to 1 whatever the shift; their mixture of keys is within the rest of the nearest key."""
    scores_N = torch.tensor([scores], dtype=torch.float64)
    weights = domain_weights(scores_N, 0.01)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, dtype=torch.float64))
    if scores_N.std() > 0.1:
        torch.testing.assert_close(domain_weights(scores_N + shift, 0.01), weights, rtol=1e-6, atol=1e-9)
    keys = tensors(method(), len(scores), seed)["keys"]
    mixture = torch.einsum("n,nmw->mw", weights[0], keys)
    neglected = 1 - weights.max()
    assert (mixture - keys[weights[0].argmax()]).abs().max() <= neglected + 1e-12


@KINDS
@torch.no_grad()
def test_one_domain(context: str) -> None:
    """With one domain w = 1: training and inference use its only key."""
    made = method(context=context)
    state = tensors(made, 1)
    ours = learner(made, state)
    expected = torch.stack([logits_as_written(state, image, state["keys"][0]) for image in features()])
    torch.testing.assert_close(ours.logits(features(), ours.text()), expected, rtol=1e-10, atol=1e-10)
    trained = learner(made, state, domain=0)
    torch.testing.assert_close(trained.logits(features(), trained.text()), expected, rtol=1e-10, atol=1e-10)


def test_clients_of_a_domain_share_its_key() -> None:
    """Keys are drawn from the run's seed, in [0, 1), sent to all, never trained and never aggregated."""
    made = method()
    state = tensors(made)
    assert made.fixed == {"keys"}
    assert ((state["keys"] >= 0) & (state["keys"] < 1)).all()
    assert torch.equal(state["keys"], tensors(made)["keys"])
    assert not torch.equal(state["keys"], tensors(made, seed=1)["keys"])
    parcels = made.downlink(state, ["a", "b"], round_=1, seed=0)
    assert all(torch.equal(parcel.tensors["keys"], state["keys"]) for parcel in parcels.values())
    uploads = {
        name: Upload({"context": state["context"] + n, "network": state["network"] * n}, 9 * n + 1)
        for n, name in enumerate(("a", "b"))
    }
    after = made.aggregate(state, uploads)
    torch.testing.assert_close(after["context"], state["context"] + 0.5)
    torch.testing.assert_close(after["network"], state["network"] / 2)
    assert torch.equal(after["keys"], state["keys"])


def test_a_client_without_a_domain_cannot_train() -> None:
    """It is refused in one line, but it can be evaluated; a data set without domains is refused at once."""
    made = method()
    local = Local(CLIP, CLASSES, DOMAINS, None, tensors(made), seed=0, training=True)
    with pytest.raises(ValueError, match="not all of one domain cannot train"):
        made.learner(local)
    assert learner(made, tensors(made)).text().shape == (len(DOMAINS), len(CLASSES), D)
    with pytest.raises(ValueError, match="needs a data set with domains"):
        tensors(made, 0)
