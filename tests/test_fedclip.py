import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from client.train import train
from common.clip import FrozenClip
from common.method import Learner, Local, Method, Sizes, Tensors, Upload
from common.methods import make_method, parse_config
from tests.tiny_clip import tiny_clip

CLIP = tiny_clip()
CLASSES = ("cat", "traffic light", "sea_lion")
D = CLIP.embed_dim
SIZES = Sizes(len(CLASSES), 0, D, CLIP.context_width)
LABELS = torch.tensor([0, 1, 2, 2, 1, 0])


def method(**options: bool | float | str) -> Method:
    """FedCLIP with these options."""
    return make_method(parse_config({"method": "fedclip"} | {f"fedclip.{k}": v for k, v in options.items()}))


def adapter(seed: int = 0) -> Tensors:
    """A drawn adapter in fp64, large enough to show in the logits."""
    drawn = method().first(SIZES, seed)
    return {name: 3 * value.double() for name, value in drawn.items()}


def features(count: int = 6) -> Tensor:
    """Random image features, [count, D]."""
    return 4 * torch.randn(count, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def learner(made: Method, tensors: Tensors) -> Learner:
    """The learner of a client that trains."""
    return made.learner(Local(CLIP, CLASSES, (), None, tensors, seed=0, training=True))


def logits_as_written(tensors: Tensors, features: Tensor, texts: Tensor) -> Tensor:
    """METHODS, section 2, one image and one text at a time."""
    rows = []
    for f in features:
        hidden = torch.tanh(tensors["adapter.inner.weight"] @ f + tensors["adapter.inner.bias"])
        score = tensors["adapter.outer.weight"] @ hidden + tensors["adapter.outer.bias"]
        attended = score.exp() / score.exp().sum() * f
        rows.append(torch.stack([CLIP.logit_scale * (attended / attended.norm()) @ text for text in texts]))
    return torch.stack(rows)


def contrast_as_written(tensors: Tensors, features: Tensor, texts: Tensor) -> Tensor:
    """The released loss: row i of the batch belongs to text i, both ways."""
    logits = logits_as_written(tensors, features, texts)
    count = len(features)
    image_to_text = -sum(logits[i, i] - logits[i].exp().sum().log() for i in range(count)) / count
    text_to_image = -sum(logits[i, i] - logits[:, i].exp().sum().log() for i in range(count)) / count
    return (image_to_text + text_to_image) / 2


def texts() -> Tensor:
    """The classes' fixed texts, [C, D]."""
    return CLIP.encode_texts(["a picture of a cat", "a picture of a traffic light", "a picture of a sea lion"])


def test_logits_against_the_formula() -> None:
    """An image's logits are s·norm(a(f) ⊙ f)·t of "a picture of a {class}"."""
    ours = learner(method(), adapter())
    expected = logits_as_written(adapter(), features(), texts())
    torch.testing.assert_close(ours.logits(features(), ours.text()), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("loss", ["contrastive", "class"])
def test_loss_and_gradients_against_the_formula(loss: str) -> None:
    """Both losses and their gradients by the adapter are those of the formulas written out."""
    ours = learner(method(loss=loss), adapter())
    leaves = {name: value.requires_grad_() for name, value in adapter().items()}
    if loss == "contrastive":
        expected = contrast_as_written(leaves, features(), texts()[LABELS])
    else:
        logits = logits_as_written(leaves, features(), texts())
        expected = -logits.log_softmax(-1)[torch.arange(len(LABELS)), LABELS].mean()
    actual = ours.loss(features(), LABELS)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    names = [name for name, _ in ours.named_parameters()]
    mine = torch.autograd.grad(actual, list(ours.parameters()))
    theirs = torch.autograd.grad(expected, [leaves[name] for name in names])
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_adam_against_its_formula() -> None:
    """A round is Adam with betas 0.9 and 0.98, eps 1e-6 and the decay added to the gradient."""
    made = method(lr=0.01, **{"batch-size": 6, "epochs": 2})
    outcome = train(learner(made, adapter()), made.schedule, lambda at, _: features()[at], LABELS, _rng())
    values = adapter()
    first = {name: torch.zeros_like(value) for name, value in values.items()}
    second = {name: torch.zeros_like(value) for name, value in values.items()}
    rng = _rng()
    for step in (1, 2):
        batch = torch.randperm(6, generator=rng)
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        loss = contrast_as_written(leaves, features()[batch], texts()[LABELS[batch]])
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        for name, gradient in zip(values, gradients, strict=True):
            decayed = gradient + 0.2 * values[name]
            first[name] = 0.9 * first[name] + 0.1 * decayed
            second[name] = 0.98 * second[name] + 0.02 * decayed**2
            size = (second[name] / (1 - 0.98**step)).sqrt() + 1e-6
            values[name] = values[name] - 0.01 * first[name] / (1 - 0.9**step) / size
    for name, value in values.items():
        torch.testing.assert_close(outcome.tensors[name], value, rtol=1e-8, atol=1e-10)


def _rng() -> torch.Generator:
    """The order of the images."""
    return torch.Generator().manual_seed(3)


def test_adapter_has_the_paper_s_size() -> None:
    """At D = 512 the adapter has 525,312 parameters, 288 times fewer than ViT-B/32's 151.3 million."""
    first = method().first(Sizes(7, 4, 512, 512), 0)
    count = sum(value.numel() for value in first.values())
    assert count == 525_312
    assert round(151_277_313 / count) == 288


def test_training_needs_no_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the texts' features there, a client trains without opening either tower."""

    def refuse(_: FrozenClip) -> None:
        raise AssertionError("a tower was opened")

    made = method(loss="class")
    ours = learner(made, adapter())
    for tower in ("text", "images"):
        monkeypatch.setattr(FrozenClip, tower, property(refuse))
    before = ours.loss(features(), LABELS)
    train(ours, made.schedule, lambda at, _: features()[at], LABELS, _rng())
    assert ours.loss(features(), LABELS) < before


@settings(max_examples=20, deadline=None)
@given(examples=st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_mean_of_adapters(examples: list[int]) -> None:
    """Adapters are averaged alike, as released, or by examples; nothing else is in the state."""
    uploads = {f"c{i}": Upload(adapter(i), count) for i, count in enumerate(examples)}
    alike = method().aggregate(adapter(9), uploads)
    weighted = method(weighting="examples").aggregate(adapter(9), uploads)
    assert alike.keys() == weighted.keys() == adapter().keys()
    for name in alike:
        values = [upload.tensors[name] for upload in uploads.values()]
        torch.testing.assert_close(alike[name], torch.stack(values).mean(0))
        expected = sum(value * count for value, count in zip(values, examples, strict=True)) / sum(examples)
        torch.testing.assert_close(weighted[name], expected)


def test_a_single_image_has_no_negatives() -> None:
    """A batch of one image gives the contrastive loss no gradient."""
    ours = learner(method(), adapter())
    loss = ours.loss(features(1), LABELS[:1])
    loss.backward()
    assert loss.item() == 0
    assert all(not parameter.grad.any() for parameter in ours.parameters())
