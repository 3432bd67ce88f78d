"""Typed messages to and from Flower's RecordDict: the only schema that server and clients share."""

import math
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from common.config import Scalar
from common.plain import short
from common.record import Question
from common.site_options import SITE_NAME, Domain

Counts = tuple[Annotated[int, Field(ge=0)], ...]
"""Images of every class, in the order of the class names."""

_TENSORS, _FIELDS, _CONFIG = "tensors", "fields", "config"
_DTYPES = frozenset({"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"})
_MAGIC = b"\x93NUMPY\x01\x00"
"""How bytes that numpy wrote begin: its name and the version of its format."""
_MOST_DIMENSIONS, _MOST_NUMBERS = 8, 2**40


class Parcelled(BaseModel):
    """A message: plain fields beside named tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    tensors: dict[str, Tensor] = {}


class Reply(Parcelled):
    """What a client answers."""

    client: Annotated[str, Field(pattern=SITE_NAME)]


class Request(Parcelled):
    """What the server asks of a client: to say who it is, to train, or to evaluate."""

    question: Question = "personal"
    run: str
    round: int
    counted: int = 0
    """The last round in which this client's training counted, or 0: what its private tensors go on from."""
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    config: dict[str, Scalar]
    refused: Annotated[str, AfterValidator(short)] = ""
    """Why the client may not take part: for its own log, since an answer is all that it can see of the server."""


class Hello(Reply):
    """Who a client is and what it holds; images per class, never an image."""

    version: str
    clip_fingerprint: str
    domain: Domain = ""
    train: Counts
    test: Counts
    validation: Counts = ()
    data_fingerprint: str = ""


class TrainReply(Reply):
    """One client's upload."""

    examples: int = Field(ge=1)
    parameters: int = Field(ge=1)
    loss: float
    seconds: float


class EvaluateReply(Reply):
    """Raw counts of one client's own test part and, where it has one, of its validation part."""

    correct: int = Field(ge=0)
    total: int = Field(ge=1)
    loss: float
    seconds: float
    validation_correct: int = Field(0, ge=0)
    validation_total: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> "EvaluateReply":
        counts = ((self.correct, self.total), (self.validation_correct, self.validation_total))
        for correct, total in counts:
            if correct > total:
                raise ValueError(f"{correct} correct of {total}")
        return self


Parcel = TypeVar("Parcel", bound=Parcelled)


def pack(message: Parcelled) -> RecordDict:
    """The message as Flower sends it; a tensor of any shape, bit for bit.

    Raises:
        ValueError: a tensor's dtype cannot travel (bfloat16 and the like, which numpy has not); names it.
    """
    fields = message.model_dump(exclude={_TENSORS, _CONFIG})
    records: dict[str, Any] = {
        _FIELDS: ConfigRecord({k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}),
        _TENSORS: ArrayRecord({name: _array(name, tensor) for name, tensor in message.tensors.items()}),
    }
    if isinstance(message, Request):
        records[_CONFIG] = ConfigRecord(dict(message.config))
    return RecordDict(records)


def _array(name: str, tensor: Tensor) -> Array:
    if str(tensor.dtype).removeprefix("torch.") not in _DTYPES:
        raise ValueError(f"tensor {name!r}: dtype {tensor.dtype} cannot travel")
    return Array(tensor.detach().cpu().numpy())


def unpack(kind: type[Parcel], message: Message) -> Parcel:
    """The typed message that Flower brought.

    Raises:
        ValueError: its content is not of that kind; names the field.
    """
    content = message.content
    fields: dict[str, Any] = dict(content.config_records.get(_FIELDS, {}))
    if _CONFIG in content.config_records:
        fields[_CONFIG] = dict(content.config_records[_CONFIG])
    arrays = content.array_records.get(_TENSORS, ArrayRecord())
    try:
        fields[_TENSORS] = {name: _tensor(name, array) for name, array in arrays.items()}
    except ValueError as error:
        raise ValueError(f"not a {kind.__name__}: tensors: {error}") from None
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(short(f"not a {kind.__name__}: {place}: {first['msg']}")) from None


def _tensor(name: str, array: Array) -> Tensor:
    """The tensor, from bytes that are exactly what numpy writes for the stated dtype and shape.

    The header in the bytes is compared and never parsed, and nothing is allocated before the sizes agree: numpy's
    own reader fails in many ways on a header that somebody made up, and may take the memory that it claims.
    """
    place, shape, data = f"{name!r:.60}", array.shape, array.data
    if array.stype != "numpy.ndarray" or array.dtype not in _DTYPES:
        raise ValueError(f"{place}: {array.dtype!r:.20} as {array.stype!r:.20} is nothing that travels")
    if (
        len(shape) > _MOST_DIMENSIONS
        or min(shape, default=0) < 0
        or math.prod(max(n, 1) for n in shape) > _MOST_NUMBERS
    ):
        raise ValueError(f"{place}: no tensor has shape {shape!r:.60}")
    start = len(_MAGIC) + 2 + int.from_bytes(data[len(_MAGIC) : len(_MAGIC) + 2], "little")
    dtype = np.dtype(array.dtype)
    orders: dict[bytes, Literal["C", "F"]] = {_header(dtype, shape, order): order for order in ("C", "F")}
    order = orders.get(data[len(_MAGIC) + 2 : start].rstrip())
    if not data.startswith(_MAGIC) or order is None:
        raise ValueError(f"{place}: its bytes do not begin as {dtype} of shape {shape} does")
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{place}: {len(data) - start} bytes for {dtype} of shape {shape}")
    return torch.from_numpy(np.ndarray(shape, dtype, data, start, order=order).copy())


def _header(dtype: "np.dtype[Any]", shape: tuple[int, ...], order: str) -> bytes:
    return f"{{'descr': {dtype.str!r}, 'fortran_order': {order == 'F'}, 'shape': {shape!r}, }}".encode()


def tensor_bytes(tensors: dict[str, Tensor]) -> int:
    """Bytes of the tensors' values: what is counted as traffic."""
    return sum(tensor.nbytes for tensor in tensors.values())
