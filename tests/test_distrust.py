"""What the server does with clients that are not what they say, and what a real site never tells it."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

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


def damaged(sent: Parcelled) -> RecordDict:
    """The answer with an array of no bytes."""
    content = pack(sent)
    content["tensors"]["context"] = Array(dtype="float32", shape=(4, 16), stype="numpy.ndarray", data=b"")
    return content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(client="sketch-01"), "answers as 'sketch-01'"),
        (changed(examples=10**6), "weight of 1000000 images instead of the"),
        (damaged, "not a TrainReply: tensors: "),
    ],
)
def test_uploads_of_somebody_else_s_name_weight_or_kind(
    settings: Settings, tmp_path: Path, change: Callable[[Reply], RecordDict], words: str
) -> None:
    """A reply under another name, with another weight or with damaged tensors is refused; the others go on."""
    record = served(settings, tmp_path / "run", TrainReply, change)
    assert record.finished
    for round_ in record.rounds:
        assert "photo-00" not in {entry.client for entry in round_.trained}
        assert len(round_.trained) == 3
        (failure,) = [failure for failure in round_.failures if failure.phase == "train"]
        assert failure.client == "photo-00"
        assert words in failure.reason


def test_evaluations_under_another_name(settings: Settings, tmp_path: Path) -> None:
    """Nobody answers for somebody else."""
    record = served(settings, tmp_path / "run", EvaluateReply, changed(client="photo-01"))
    assert [len(round_.evaluated) for round_ in record.rounds] == [3, 3]


def test_the_required_share_is_not_rounded_down(settings: Settings, tmp_path: Path) -> None:
    """Of four clients three must answer where more than half must."""
    strict = settings | {"federation.attempts": 1}
    config = parse_config(strict | SMALL | {"out": str(tmp_path / "run"), "federation.required-share": 0.8})
    with pytest.raises(RunError, match="3 of 4 clients answered and 4 must"):
        serve(Between(4, "photo-00", TrainReply, changed(examples=1)), config, LogProgress())


def test_no_more_clients_than_asked_for(settings: Settings, tmp_path: Path) -> None:
    """A client beyond those that the run waits for takes no part."""

    class OneMore(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
            for reply in super().pull_messages(message_ids):
                if reply.metadata.src_node_id == 5:
                    reply.content = pack(unpack(Hello, reply).model_copy(update={"client": "one-more"}))
                yield reply

    grid = OneMore(5)
    for context in grid.contexts.values():
        context.node_config["num-partitions"] = 4
    grid.contexts[5].node_config["partition-id"] = 0
    config = parse_config(settings | SMALL | {"out": str(tmp_path / "run")})
    record = serve(grid, config, LogProgress())
    assert "one-more" not in {client.name for client in record.clients}
    assert len(record.clients) == 4


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
