import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from client.train import train
from common.method import Local, Method, Sizes, Upload
from common.methods import make_method, parse_config
from common.methods.pfedmoap import Gate, Options, choose_experts, nearest_others
from tests.tiny_clip import tiny_clip

SEED = 0
CLASSES = ("cat", "traffic light", "sea_lion")


def method(**options: bool | float | str) -> Method:
    flat = {"method": "pfedmoap", "prompt.context-tokens": 4, "pfedmoap.gate-width": 8, "pfedmoap.gate-heads": 2}
    return make_method(parse_config(flat | {f"pfedmoap.{key}": value for key, value in options.items()}))


def local(tensors: dict[str, Tensor], *, training: bool = True) -> Local:
    return Local(
        clip=tiny_clip(), class_names=CLASSES, domain_names=(), domain=None, tensors=tensors, seed=0, training=training
    )


def contexts(count: int) -> Tensor:
    shape = (count, 4, tiny_clip().context_width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.02


def attention_as_written(gate: Gate, image_B: Tensor, text_CE: Tensor, scale: float) -> Tensor:
    """logits of METHODS, section 1, one image, class, head and expert at a time."""
    step = image_B.shape[-1] // gate.width
    size = gate.width // gate.heads
    rows = []
    for image in image_B:
        query = gate.query.weight @ image[::step] + gate.query.bias
        row = []
        for text_E in text_CE:
            keys = [gate.key.weight @ text[::step] + gate.key.bias for text in text_E]
            values = [gate.value.weight @ text[::step] + gate.value.bias for text in text_E]
            heads = []
            for head in range(gate.heads):
                part = slice(head * size, (head + 1) * size)
                scores = torch.stack([query[part] @ key[part] for key in keys]) * scale
                weights = scores.softmax(0)
                heads.append(sum(weight * value[part] for weight, value in zip(weights, values, strict=True)))
            mixture = gate.out.weight @ torch.cat(heads) + gate.out.bias
            row.append(image[::step] @ mixture)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("score_scale", [10.0, "paper"])
def test_gate_against_attention_written_out(score_scale: float | str) -> None:
    """Projecting each image and each (class, expert) once gives the attention's own logits and gradients."""
    options = Options(gate_width=8, gate_heads=2, score_scale=score_scale)
    gate = Gate(options, seed=0).double()
    rng = torch.Generator().manual_seed(0)
    image = normalize(torch.randn(5, 16, generator=rng, dtype=torch.float64), dim=-1)
    text = normalize(torch.randn(3, 4, 16, generator=rng, dtype=torch.float64), dim=-1).requires_grad_()
    scale = 10.0 if score_scale == 10.0 else 1 / math.sqrt(4)
    fast = gate(gate.pool(image), gate.pool(text).transpose(0, 1))
    slow = attention_as_written(gate, image, text, scale)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    weights = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    leaves = [text, *gate.parameters()]
    fast_gradients = torch.autograd.grad((fast * weights).sum(), leaves)
    slow_gradients = torch.autograd.grad((slow * weights).sum(), leaves)
    for ours, theirs in zip(fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_gate_has_the_paper_s_size() -> None:
    """Four biased 128 x 128 maps are 66,048 parameters."""
    assert sum(parameter.numel() for parameter in Gate(Options(), seed=0).parameters()) == 66_048


def test_logits_and_gradients_against_the_formula() -> None:
    """s·pool(f)·t_MoE + λ·s·norm(f)·t, and its gradients by prompt and gate, as METHODS writes them."""
    clip = tiny_clip()
    learner = method(**{"lambda": 0.3}).learner(local({"context": contexts(1)[0], "experts": contexts(4)[1:]}))
    features = torch.randn(6, clip.embed_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 2, 2, 1, 0])

    unit = normalize(features, dim=-1)
    own = learner.encode(learner.context)
    experts = [learner.encode(context).detach() for context in contexts(4)[1:]]
    text_CE = torch.stack([own, *experts], dim=1)
    expected = clip.logit_scale * (attention_as_written(learner.gate, unit, text_CE, 10.0) + 0.3 * unit @ own.T)
    logits = learner.logits(features, learner.text())
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)

    parameters = list(learner.parameters())
    ours = torch.autograd.grad(learner.loss(features, labels), parameters)
    theirs = torch.autograd.grad(cross_entropy(expected, labels), parameters)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_without_experts_the_local_logits_weigh_one() -> None:
    """A first-timer's logits are s·norm(f)·t, not λ times that, and it has no gate to train."""
    clip = tiny_clip()
    learner = method().learner(local({"context": contexts(1)[0]}))
    features = torch.randn(2, clip.embed_dim, dtype=torch.float64)
    expected = clip.logit_scale * normalize(features, dim=-1) @ learner.text().T
    torch.testing.assert_close(learner.logits(features, learner.text()), expected, rtol=1e-12, atol=0)
    assert [name for name, _ in learner.named_parameters()] == ["context"]


def test_an_untrained_gate_is_not_used() -> None:
    """A client that has never trained its gate evaluates with its own prompt alone, though experts came."""
    tensors = {"context": contexts(1)[0], "experts": contexts(3)[1:]}
    assert method().learner(local(tensors, training=False)).gate is None
    assert method().learner(local(tensors, training=True)).gate is not None


def test_experts_are_frozen() -> None:
    """Training moves prompt and gate, and leaves the experts as they came."""
    experts = contexts(3)[1:]
    learner = method().learner(local({"context": contexts(1)[0], "experts": experts}))
    before = learner.expert_text_KCG.clone()
    moved = {name: parameter.detach().clone() for name, parameter in learner.named_parameters()}
    features = torch.randn(6, tiny_clip().embed_dim, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    schedule = method().schedule
    assert schedule is not None
    train(learner, schedule, lambda at, _: features[at], labels, torch.Generator().manual_seed(0))
    assert not learner.expert_text_KCG.requires_grad
    assert torch.equal(learner.expert_text_KCG, before)
    assert torch.equal(experts, contexts(3)[1:])
    assert all(not torch.equal(parameter, moved[name]) for name, parameter in learner.named_parameters())


@given(
    entries=st.integers(1, 9),
    count=st.integers(1, 12),
    levels=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_nearest_against_brute_force(entries: int, count: int, levels: int, seed: int) -> None:
    """The K nearest others by L2, self left out, ties to the lower index, all others where fewer than K."""
    pool = torch.randint(levels, (entries, 3), generator=torch.Generator().manual_seed(seed)).float()
    found = nearest_others(pool, range(entries), count)
    for own in range(entries):
        others = [other for other in range(entries) if other != own]
        others.sort(key=lambda other: (math.dist(pool[own].tolist(), pool[other].tolist()), other))
        assert found[own] == others[:count]


@pytest.mark.parametrize("choice", ["nearest", "random", "all"])
def test_first_timers_receive_no_experts(choice: str) -> None:
    """A client without a pool entry receives the global prompt alone; the others never receive themselves."""
    pool = {name: torch.randn(2, 3) for name in ("a", "b", "c")}
    chosen = choose_experts(pool, ["a", "new"], Options(experts=2, choice=choice), round_=2, seed=0)
    assert chosen["new"] == []
    assert set(chosen["a"]) == {"b", "c"}


def test_random_experts_are_drawn_anew_each_round() -> None:
    """`random` depends on round and client, and gives the same in a process that has done other things before."""
    pool = {f"client-{number}": torch.zeros(1) for number in range(40)}
    options = Options(experts=5, choice="random")
    draws = [choose_experts(pool, sorted(pool), options, round_=round_, seed=0) for round_ in (1, 2, 1)]
    assert draws[0] == draws[2] != draws[1]
    assert all(len(set(chosen)) == 5 and client not in chosen for client, chosen in draws[0].items())


def test_pool_keeps_prompts_before_aggregation() -> None:
    """The global prompt is the weighted mean of the uploads; the pool holds each upload as it came."""
    pfedmoap = method()
    state = pfedmoap.first(Sizes(3, 0, 16, 12), SEED)
    uploads = {
        name: Upload({"context": torch.full((4, 12), float(value))}, value) for name, value in [("a", 1), ("b", 3)]
    }
    after = pfedmoap.aggregate(state, uploads)
    torch.testing.assert_close(after["context"], torch.full((4, 12), 2.5))
    assert torch.equal(after["pool.a"], uploads["a"].tensors["context"])
    again = pfedmoap.aggregate(after, {"a": Upload({"context": torch.zeros(4, 12)}, 1)})
    assert torch.equal(again["pool.b"], after["pool.b"])


def test_experts_come_from_the_pool_before_the_round() -> None:
    """What a client receives depends on the state it is given, which a round does not change until it is over."""
    pfedmoap = method(experts=1)
    state = {"context": torch.zeros(4, 12)} | {
        f"pool.{name}": torch.full((4, 12), v) for name, v in [("a", 0.0), ("b", 1.0), ("c", 5.0)]
    }
    before = pfedmoap.downlink(state, ["a"], round_=2, seed=SEED)["a"]
    assert before.drew_on == ("b",)
    assert torch.equal(before.tensors["experts"], state["pool.b"][None])
    moved = pfedmoap.aggregate(state, {"b": Upload({"context": torch.full((4, 12), 9.0)}, 1)})
    assert torch.equal(before.tensors["experts"], state["pool.b"][None])
    assert pfedmoap.downlink(moved, ["a"], round_=3, seed=SEED)["a"].drew_on == ("c",)


@pytest.mark.parametrize(
    ("options", "words"), [({"gate-width": 7}, "must divide the CLIP"), ({"gate-heads": 3}, "gate-heads = 3")]
)
def test_gate_sizes_that_cannot_be(options: dict[str, int], words: str) -> None:
    """A gate width that does not divide the embedding, or heads that do not divide it, are named at once."""
    with pytest.raises(ValueError, match=words):
        method(**options).first(Sizes(3, 0, 16, 12), SEED)


@pytest.mark.parametrize(("choice", "count"), [("nearest", 2), ("all", 5)])
def test_newcomers_draw_on_the_prompts_nearest_to_the_global_one(choice: str, count: int) -> None:
    """A client without a pool entry of its own joins late with the K entries nearest to the global prompt."""
    pool = {f"pool.{name}": prompt for name, prompt in zip("abcde", contexts(5), strict=True)}
    state = {"context": contexts(6)[5]} | pool
    made = method(experts=2, choice=choice)
    assert made.welcome is not None
    sent = made.welcome(state)
    nearest = sorted(pool.values(), key=lambda prompt: float((prompt - state["context"]).norm()))
    torch.testing.assert_close(sent["experts"], torch.stack(nearest[:count]))
    assert torch.equal(sent["context"], state["context"])
    assert made.welcome({"context": state["context"]}).keys() == {"context"}
