"""What the server does with clients that are not what they say, and what a real site never tells it."""

import io
import pickle
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, Context, Message, RecordDict

from client.app import discreet
from common.config import Scalar
from common.errors import RunError
from common.methods import parse_config
from common.record import Record
from common.wire import EvaluateReply, Hello, Parcelled, Reply, TrainReply, pack, unpack
from server.app import serve
from server.exchange import exchange
from server.log import LogProgress
from tests.local_grid import LocalGrid, run

Settings = dict[str, Scalar]
SMALL: Settings = {"rounds": 2, "method": "promptfl", "federation.required-share": 0.5}


class Between(LocalGrid):
    """A grid in which one client's answers of one kind are replaced on their way."""

    def __init__(self, nodes: int, client: str, kind: type[Reply], change: Callable[[Reply], RecordDict]) -> None:
        super().__init__(nodes)
        self.client, self.kind, self.change = client, kind, change

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The answers, one of them changed."""
        for reply in super().pull_messages(message_ids):
            try:
                sent = unpack(self.kind, reply)
            except ValueError:
                yield reply
                continue
            if sent.client == self.client:
                reply.content = self.change(sent)
            yield reply


def served(settings: Settings, out: Path, kind: type[Reply], change: Callable[[Reply], RecordDict]) -> Record:
    """A whole run in which photo-00's answers of that kind are changed."""
    config = parse_config(settings | SMALL | {"out": str(out)})
    return serve(Between(config.partition.nodes, "photo-00", kind, change), config, LogProgress())


def changed(**fields: object) -> Callable[[Parcelled], RecordDict]:
    return lambda sent: pack(sent.model_copy(update=fields))


def npy(header: str, values: bytes = bytes(256), version: bytes = b"\x01\x00") -> bytes:
    """Bytes as numpy writes them, with a header of anybody's making."""
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode() + values


def header(descr: str = "<f4", shape: str = "(4, 16)") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"


def crafted(data: bytes, dtype: str = "float32", shape: tuple[int, ...] = (4, 16)) -> Callable[[Parcelled], RecordDict]:
    """The answer with an array of these bytes, which claims that dtype and shape."""

    def change(sent: Parcelled) -> RecordDict:
        content = pack(sent)
        content["tensors"]["context"] = Array(dtype=dtype, shape=shape, stype="numpy.ndarray", data=data)
        return content

    return change


def zipped() -> bytes:
    """An archive, as numpy's own reader would open one."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, context=np.zeros((4, 16), np.float32))
    return buffer.getvalue()


HUGE = 10**12
DAMAGED = {
    "no bytes": crafted(b""),
    "truncated": crafted(npy(header(), bytes(255))),
    "too long": crafted(npy(header(), bytes(257))),
    "cut in the header": crafted(npy(header())[:20]),
    "huge in the header": crafted(npy(header(shape=f"({HUGE},)"))),
    "huge in both": crafted(npy(header(shape="(2000000000, 500)")), shape=(2000000000, 500)),
    "huger than numbers": crafted(npy(header(shape=f"({HUGE**9},)")), shape=(HUGE**9,)),
    "empty and huge": crafted(
        npy(header(shape=f"({', '.join(['2147483647'] * 7)}, 0)"), b""), shape=(*[2147483647] * 7, 0)
    ),
    "negative": crafted(npy(header(shape="(-4, -16)")), shape=(-4, -16)),
    "many dimensions": crafted(npy(header(shape=f"({'1, ' * 99}64)")), shape=(*[1] * 99, 64)),
    "nested header": crafted(npy("(" * 5000)),
    "garbage header": crafted(npy("{'descr': '''<f4")),
    "another version": crafted(npy(header(), version=b"\x03\x00")),
    "another dtype in the header": crafted(npy(header("<f8"))),
    "no dtype": crafted(npy(header()), dtype="float31"),
    "a structured dtype": crafted(npy(header()), dtype="f4,f4"),
    "objects": crafted(npy(header("|O"), pickle.dumps([0.0] * 64)), dtype="object"),
    "a pickle": crafted(pickle.dumps(np.zeros((4, 16), np.float32))),
    "a zip": crafted(zipped()),
    "a zip's beginning": crafted(b"PK\x03\x04" + bytes(252)),
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(client="sketch-01"), "answers as 'sketch-01'"),
        (changed(examples=10**6), "weight of 1000000 images instead of the"),
    ],
)
def test_uploads_of_somebody_else_s_name_weight_or_kind(
    settings: Settings, tmp_path: Path, change: Callable[[Reply], RecordDict], words: str
) -> None:
    """A reply under another name or with another weight is refused; the others go on."""
    refused_alone(served(settings, tmp_path / "run", TrainReply, change), words)


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED)
def test_uploads_of_damaged_tensors(settings: Settings, tmp_path: Path, change: Callable[[Reply], RecordDict]) -> None:
    """Whatever the bytes of an array are, and whatever they claim to be, its upload is refused; the others go on."""
    refused_alone(served(settings, tmp_path / "run", TrainReply, change), "not a TrainReply: tensors: 'context': ")


def refused_alone(record: Record, words: str) -> None:
    """Photo-00's uploads never count, for the reason in these words, in one line; everybody else's do."""
    assert record.finished
    for round_ in record.rounds:
        assert "photo-00" not in {entry.client for entry in round_.trained}
        assert len(round_.trained) == 3
        (failure,) = [failure for failure in round_.failures if failure.phase == "train"]
        assert failure.client == "photo-00"
        assert words in failure.reason
        assert failure.reason.isprintable()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(client="photo-01"), "answers as 'photo-01'"),
        (changed(total=10**6), "figures of 1000000 test and 0 validation images instead of the "),
        (changed(validation_total=3), " and 3 validation images instead of the "),
    ],
)
def test_evaluations_that_cannot_be(
    settings: Settings, tmp_path: Path, change: Callable[[Reply], RecordDict], words: str
) -> None:
    """Nobody answers for somebody else, nor on other images than it said it has."""
    record = served(settings, tmp_path / "run", EvaluateReply, change)
    assert [len(round_.evaluated) for round_ in record.rounds] == [3, 3]
    assert all(words in failure.reason for round_ in record.rounds for failure in round_.failures)


def test_the_required_share_is_not_rounded_down(settings: Settings, tmp_path: Path) -> None:
    """Of four clients three must answer where more than half must."""
    strict = settings | {"federation.attempts": 1}
    config = parse_config(strict | SMALL | {"out": str(tmp_path / "run"), "federation.required-share": 0.8})
    with pytest.raises(RunError, match="3 of 4 clients answered and 4 must"):
        serve(Between(4, "photo-00", TrainReply, changed(examples=1)), config, LogProgress())


class FifthNode(LocalGrid):
    """Five nodes for four clients, of which the last holds what the first does; one node's hello is changed."""

    def __init__(self, node: int, **fields: object) -> None:
        super().__init__(5)
        self.node, self.fields = node, fields
        for context in self.contexts.values():
            context.node_config["num-partitions"] = 4
        self.contexts[5].node_config["partition-id"] = 0

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The answers, one node's hello changed."""
        for reply in super().pull_messages(message_ids):
            if reply.metadata.src_node_id == self.node:
                reply.content = pack(unpack(Hello, reply).model_copy(update=self.fields))
            yield reply


def test_no_more_clients_than_asked_for(settings: Settings, tmp_path: Path) -> None:
    """A client beyond those that the run waits for takes no part."""
    config = parse_config(settings | SMALL | {"out": str(tmp_path / "run")})
    record = serve(FifthNode(5, client="one-more"), config, LogProgress())
    assert "one-more" not in {client.name for client in record.clients}
    assert len(record.clients) == 4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"test": (0, 0, 0)}, "client 'photo-00' has no test image"),
        ({"test": (5,)}, "photo-00: test counts of 1 classes instead of 3"),
        ({"train": (5, 5, 5, 5)}, "photo-00: train counts of 4 classes instead of 3"),
        ({"validation": (5,)}, "photo-00: validation counts of 1 classes instead of 3"),
        ({"train": (-1, 5, 5)}, "not a Hello: train.0: "),
        ({"test": (5, 5, -1)}, "not a Hello: test.2: "),
        ({"train": (0, 0, 0)}, "client 'photo-00' has no training image, and only partition.unseen needs none"),
        ({"client": "../photo-00"}, "not a Hello: client: "),
        ({"client": "photo\x1b[2J"}, "not a Hello: client: "),
        ({"client": "x" * 65}, "not a Hello: client: "),
        ({"domain": "photo\n"}, "not a Hello: domain: "),
        ({"domain": "x" * 65}, "not a Hello: domain: "),
        ({"domain": ""}, "fedapt: client 'photo-00' has no domain"),
        ({"version": "\x1b[2J 9"}, "photo-00: runs fedmoap [2J 9, the server "),
    ],
)
def test_a_misfit_is_refused_alone(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, object], words: str
) -> None:
    """A hello that cannot be is refused, in the server's log and the site's; the others have their run."""
    own: Settings = {"method": "fedapt", "federation.sites": 4, "rounds": 1}
    config = parse_config(settings | SMALL | own | {"out": str(tmp_path / "run")})
    record = serve(FifthNode(1, **fields), config, LogProgress())
    assert record.finished
    assert [client.name for client in record.clients] == ["photo-00", "photo-01", "sketch-00", "sketch-01"]
    assert all(sum(client.train) > 0 and len(client.train) == 3 and sum(client.test) > 0 for client in record.clients)
    told = [line for line in caplog.messages if words in line]
    assert [line.split(": ")[0] for line in told] == ["refused a client", "the server refused this site"]
    assert all(line.isprintable() for line in told)


def test_resume_with_other_data(settings: Settings, tmp_path: Path) -> None:
    """A run does not go on with data that are not those it was begun with; the difference is named."""
    out = tmp_path / "run"
    run(settings, out, rounds=1)
    record = Record.load(out)
    record.model_copy(update={"data_fingerprint": "another", "finished": False}).save(out)
    with pytest.raises(ValueError, match="cannot resume: data fingerprint was 'another' and is"):
        run(settings, out, rounds=1, resume=True)


def test_a_message_that_nobody_takes() -> None:
    """A client that the SuperLink cannot reach is told apart from one that is late, and not waited for."""

    class Deaf(LocalGrid):
        def push_messages(self, messages: Iterable[Message]) -> list[str]:
            return ["" for _ in messages]

    class Busy(LocalGrid):
        def push_messages(self, messages: Iterable[Message]) -> list[str]:
            del messages
            return []

    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    for grid in (Deaf(2), Busy(2)):
        answers = exchange(grid, {"a": message, "b": message}, timeout=60.0, answered=lambda _: None)
        assert {answer.problem for answer in answers.values()} == {"the SuperLink cannot reach it"}


def test_what_goes_wrong_at_a_real_site_stays_there(caplog: pytest.LogCaptureFixture) -> None:
    """The server is told the kind of error and whose it is; the words, which may name a patient, the site's log has."""

    @discreet
    def fail(message: Message, context: Context) -> Message:
        raise ValueError(f"/data/images/Doe_Jane/{message}/{context.run_id}.png cannot be read")

    def context(**node: str) -> Context:
        return Context(0, 1, dict(node), RecordDict(), {})

    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    with pytest.raises(RunError) as told:
        fail(message, context(data="/data/images", name="hospital-a"))
    assert str(told.value) == "ValueError at hospital-a, whose own log says more"
    assert "Doe_Jane" in caplog.text
    with pytest.raises(ValueError, match="Doe_Jane"):
        fail(message, context())
