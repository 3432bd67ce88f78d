import pytest
import torch
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st

from common.wire import EvaluateReply, Hello, Request, TrainReply, pack, tensor_bytes, unpack

DTYPES = [torch.float16, torch.float32, torch.float64, torch.int8, torch.int64, torch.bool]


def message(content: object) -> Message:
    return Message(content, dst_node_id=1, message_type="train")


def request(**changes: object) -> Request:
    fields = {"run": "r", "round": 1, "class_names": ("cat", "dog"), "domain_names": (), "config": {"seed": 0}}
    return Request.model_validate(fields | changes)


@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 100),
    name=st.text(min_size=1),
)
def test_tensors_arrive_bit_for_bit(shape: list[int], dtype: torch.dtype, seed: int, name: str) -> None:
    """A tensor of any shape and dtype, empty and 0-dimensional ones too, arrives as it was sent."""
    tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 100).to(dtype)
    arrived = unpack(Request, message(pack(request(tensors={name: tensor})))).tensors[name]
    assert arrived.dtype == dtype
    assert arrived.shape == tensor.shape
    assert torch.equal(arrived, tensor)


def test_any_order_of_memory_arrives() -> None:
    """A transposed tensor, which numpy writes column by column, arrives as it was sent."""
    tensor = torch.arange(6.0).reshape(2, 3).t()
    assert torch.equal(unpack(Request, message(pack(request(tensors={"a": tensor})))).tensors["a"], tensor)


def test_fields_arrive() -> None:
    """Every plain field, lists and none of them included, arrives as it was sent."""
    for sent in (
        request(counted=3, config={"a.b": 1.5, "c": "x", "d": True, "e": 2}),
        request(class_names=(), domain_names=("sketch",)),
        Hello(client="a", version="1", clip_fingerprint="f", domain="d", train=(1, 0), test=(0, 2)),
        TrainReply(client="a", examples=3, parameters=4, loss=0.5, seconds=1.0),
        EvaluateReply(client="a", correct=2, total=3, loss=0.5, seconds=1.0),
    ):
        assert unpack(type(sent), message(pack(sent))) == sent


def test_a_wrong_message_is_named() -> None:
    """A message of another kind, or with impossible counts, is refused by the name of its field."""
    with pytest.raises(ValueError, match="not a TrainReply: examples"):
        unpack(TrainReply, message(pack(EvaluateReply(client="a", correct=1, total=1, loss=0.0, seconds=0.0))))
    forged = EvaluateReply.model_construct(client="a", correct=5, total=1, loss=0.0, seconds=0.0, tensors={})
    with pytest.raises(ValueError, match="5 correct of 1"):
        unpack(EvaluateReply, message(pack(forged)))


def test_what_cannot_travel_is_named() -> None:
    """A dtype that is none of those that travel is refused with the tensor's name instead of being sent changed."""
    for dtype in (torch.bfloat16, torch.complex64):
        with pytest.raises(ValueError, match=rf"'context'.*{dtype}"):
            pack(request(tensors={"context": torch.zeros(2, dtype=dtype)}))


def test_traffic_counts_values() -> None:
    """Traffic is the tensors' own bytes."""
    assert tensor_bytes({"a": torch.zeros(3, 2), "b": torch.zeros(5, dtype=torch.int64)}) == 24 + 40
