from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.clip import FrozenClip
from common.packing import pack
from common.text import PromptEncoder
from common.tower import OwnForward, TextTower
from tests.tiny_clip import TinyTokenizer, tiny_clip, tiny_model

NAMES = ("cat", "dog_house", "a rather long name", "x", "St. John's wort")
UNIT = {"rtol": 0, "atol": 1e-12}  # features are of length one


def obvious(model: nn.Module, names: Sequence[str], context: Tensor, tokenizer: TinyTokenizer) -> Tensor:
    """Features [classes, D] by open_clip's path over all positions, the context put in after embedding."""
    text: Any = getattr(model, "text", model)
    start = 0 if tokenizer.start is None else 1
    rows = tokenizer([name.replace("_", " ") + "." for name in names], context_length=200)
    places = torch.full((len(rows), context.shape[-2]), 5)
    rows = torch.cat((rows[:, :start], places, rows[:, start:]), 1)[:, : text.context_length]

    def put(_module: nn.Module, _input: object, embedded: Tensor) -> Tensor:
        vectors = context.to(embedded.dtype).expand(len(names), -1, -1)
        return torch.cat((embedded[:, :start], vectors, embedded[:, start + context.shape[-2] :]), 1)

    hook = text.token_embedding.register_forward_hook(put)
    features = model.encode_text(rows, normalize=True)
    hook.remove()
    return features


def assert_same(model: nn.Module, names: Sequence[str], tokens: int, tokenizer: TinyTokenizer) -> FrozenClip:
    """Features and context gradients of both entries are the obvious way's, for two contexts in one pass."""
    clip = FrozenClip.from_open_clip(model, tokenizer)
    encoder = PromptEncoder(clip, names, tokens)
    rng = torch.Generator().manual_seed(1)
    shape = (2, len(names), tokens, clip.context_width)
    contexts = torch.randn(shape, generator=rng, dtype=clip.dtype, requires_grad=True)
    for ours, inputs in (
        (encoder(contexts[:, 0]), contexts[:, :1].expand(-1, len(names), -1, -1)),
        (encoder.encode_class_contexts(contexts), contexts),
    ):
        theirs = torch.stack([obvious(model, names, context, tokenizer) for context in inputs])
        torch.testing.assert_close(ours, theirs, **UNIT)
        weight = torch.randn(ours.shape, generator=rng, dtype=ours.dtype)
        got, expected = (torch.autograd.grad((x * weight).sum(), contexts)[0] for x in (ours, theirs))
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-11 * float(expected.abs().max()) + 1e-14)
    return clip


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_against_open_clip(data: st.DataObject) -> None:
    """Features and gradients of any standard tower are those of open_clip's own path over all positions."""
    draw = data.draw
    heads = draw(st.integers(1, 3))
    causal_pool = draw(st.sampled_from([("argmax", 99), ("eos", 2), ("last", 99)]))
    tokens = draw(st.integers(1, 5))
    length = draw(st.integers(tokens + 12, 40))
    letters = st.text("abcXYZ_'0 ", min_size=1, max_size=length - tokens - 4).filter(lambda text: text.strip(" _"))
    names = draw(st.lists(letters, min_size=1, max_size=12, unique_by=lambda name: name.lower().replace("_", " ")))
    model = tiny_model(
        width=8 * heads,
        heads=heads,
        layers=draw(st.integers(1, 3)),
        context_length=length,
        custom_text=draw(st.booleans()),
        quick_gelu=draw(st.booleans()),
        text={
            "pool_type": causal_pool[0],
            "eos_id": causal_pool[1],
            "mlp_ratio": draw(st.sampled_from([1.0, 3.7])),
            "ls_init_value": draw(st.sampled_from([None, 0.5])),
            "proj_type": draw(st.sampled_from(["linear", "none"])),
            "proj_bias": draw(st.booleans()),
            "norm_kwargs": draw(st.sampled_from([None, {"eps": 1e-2}])),
        },
        seed=draw(st.integers(0, 99)),
    )
    clip = assert_same(model, names, tokens, TinyTokenizer(length, end=causal_pool[1]))
    assert isinstance(clip.text, TextTower)


@pytest.mark.parametrize(
    ("change", "tokenizer"),
    [
        ({"text": {"no_causal_mask": True}}, {}),
        (
            {"text": {"no_causal_mask": True, "pool_type": "last"}, "custom_text": True},
            {"start": None, "pad": 99},
        ),
        ({"text": {"qk_norm": True}, "custom_text": True}, {}),
        ({"text": {"scale_fc": True}}, {}),
        ({"text": {"embed_cls": True}, "custom_text": True}, {}),
    ],
)
def test_unusual_towers_against_open_clip(change: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    """Bidirectional, custom and CoCa-like towers give open_clip's numbers: open_clip computes them."""
    clip = assert_same(tiny_model(**change), NAMES, 3, TinyTokenizer(40, **tokenizer))
    assert isinstance(clip.text, OwnForward)


def test_causal_tower_without_start_token() -> None:
    """A tokenizer with no start token gives prompts that begin with the context."""
    clip = assert_same(tiny_model(), NAMES, 3, TinyTokenizer(40, start=None))
    assert clip.tokens.head == 0


def test_hooked_tower_is_not_read() -> None:
    """A tower that somebody hooked into is run by its own forward, hooks included."""
    model: Any = tiny_model()
    model.transformer.resblocks[0].mlp.register_forward_hook(lambda _module, _input, output: 2 * output)
    assert isinstance(assert_same(model, NAMES, 3, TinyTokenizer(40)).text, OwnForward)


@pytest.mark.parametrize("count", [37, 101])
def test_many_classes_against_open_clip(count: int) -> None:
    """Classes that fill several bins give the same numbers as one by one."""
    names = [f"{'long ' * (i % 4)}name {i}" for i in range(count)]
    assert_same(tiny_model(context_length=50), names, 16, TinyTokenizer(50))


def test_whole_texts_against_open_clip() -> None:
    """Whole texts have the features that open_clip gives them."""
    model, tokenizer = tiny_model(quick_gelu=True), TinyTokenizer(40)
    clip = FrozenClip.from_open_clip(model, tokenizer)
    texts = [f"a photo of a {name}." for name in NAMES]
    torch.testing.assert_close(clip.encode_texts(texts), model.encode_text(tokenizer(texts), normalize=True), **UNIT)


def test_leading_dimensions() -> None:
    """Any leading dimensions, none and empty ones included, give what each context gives alone."""
    encoder = PromptEncoder(tiny_clip(), NAMES, 3)
    contexts = torch.randn(2, 3, 3, 16, dtype=torch.float64)
    together = encoder(contexts)
    assert together.shape == (2, 3, len(NAMES), 8)
    torch.testing.assert_close(together[1, 2], encoder(contexts[1, 2]), **UNIT)
    assert encoder(contexts[:0]).shape == (0, 3, len(NAMES), 8)


def test_only_the_context_collects_gradients() -> None:
    """No frozen tensor asks for a gradient, and what inference prepared serves training afterwards."""
    clip = tiny_clip()
    encoder = PromptEncoder(clip, NAMES, 3)
    with torch.inference_mode():
        encoder(torch.zeros(3, 16, dtype=torch.float64))
    context = torch.zeros(3, 16, dtype=torch.float64, requires_grad=True)
    encoder(context).sum().backward()
    assert context.grad is not None
    assert isinstance(clip.text, TextTower)
    assert not any(weight.requires_grad for weight in clip.text.weights.values())


def test_half_precision_stays_near() -> None:
    """bf16 autocast moves features by no more than bf16 rounding, and they are float32 of unit length."""
    clip = tiny_clip(dtype=torch.float32)
    encoder, context = PromptEncoder(clip, NAMES, 3), torch.randn(3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(context)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.norm(dim=-1), torch.ones(len(NAMES)))
    torch.testing.assert_close(half, encoder(context), rtol=0, atol=0.1)


@given(st.lists(st.integers(1, 70), min_size=1, max_size=400), st.integers(0, 20))
@settings(deadline=None)
def test_packing_holds_every_row_once(lengths: list[int], before: int) -> None:
    """Every row of every text lies in one bin of bounded size, and what is pooled is found again."""
    packing = pack(lengths, before)
    places = [(int(text), int(row)) for text, row in zip(packing.text.flatten(), packing.offset.flatten(), strict=True)]
    assert sorted(place for place in places if place[0] >= 0) == [
        (i, j) for i, n in enumerate(lengths) for j in range(n)
    ]
    assert packing.text.shape[1] <= 256
    ends = packing.ends.flatten()[packing.order] + packing.order // packing.ends.shape[1] * packing.text.shape[1]
    assert [places[end] for end in ends.tolist()] == [(i, n - 1) for i, n in enumerate(lengths)]
    assert packing.visible.any(-1).all()


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ([], "there is no class"),
        (["cat", " "], "class 1 has no name"),
        (["cat", "dog", "cat"], "classes 'cat' and 'cat' are the same text"),
        (["a_cat", "A cat"], "classes 'a_cat' and 'A cat' are the same text"),
        (
            ["cat", "x" * 50],
            f"the text '{'x' * 50}.' does not fit the CLIP's 40 tokens beside 3 context tokens",
        ),
    ],
)
def test_classes_that_make_no_prompts(names: list[str], line: str) -> None:
    """Classes that cannot be told apart or do not fit are refused in a line that names them."""
    with pytest.raises(ValueError, match=line):
        PromptEncoder(tiny_clip(), names, 3)


def test_longest_name_that_fits() -> None:
    """A name may fill the context length to the last token, and not one more."""
    clip = tiny_clip(context_length=20)
    PromptEncoder(clip, ["x" * 14], 3)  # start, 3 context tokens, 14 letters, full stop, end
    with pytest.raises(ValueError, match="does not fit"):
        PromptEncoder(clip, ["x" * 15], 3)
    with pytest.raises(ValueError, match="does not fit"):
        clip.encode_texts(["x" * 19])


@pytest.mark.parametrize("text", [{"vocab_size": 99}, {"pool_type": "eos", "eos_id": 50}])
def test_tokenizer_of_another_model(text: dict[str, Any]) -> None:
    """A tokenizer that gives tokens unknown to the tower, or no end of text, is refused."""
    encoder = PromptEncoder(tiny_clip(text=text), NAMES, 3)
    with pytest.raises(ValueError, match="the tokenizer is not this model's"):
        encoder(torch.zeros(3, 16, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3, 15), (4, 16), (16,), (2, 3, 15)])
def test_context_of_another_shape(shape: tuple[int, ...]) -> None:
    """A context of the wrong width or length is refused, naming what it must be."""
    encoder = PromptEncoder(tiny_clip(), NAMES, 3)
    with pytest.raises(ValueError, match="its last dimensions must be 3 x 16"):
        encoder._encode(torch.zeros(shape), encoder._shared, 0)  # noqa: SLF001 - past the type checks of the tests
