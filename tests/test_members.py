"""Who is let in before round 1, where nodes are slow, silent or late."""

import time
from collections.abc import Iterable, Iterator

import pytest
from flwr.app import Message

from common import __version__
from common.config import Scalar
from common.errors import RunError
from common.methods import make_method, parse_config
from common.wire import Hello, Request
from common.world import clip_of, task_of
from server.members import gather
from tests.local_grid import LocalGrid

Settings = dict[str, Scalar]


class Timed(LocalGrid):
    """A grid with nodes that join at a later look for nodes, and nodes that answer at a later look for answers."""

    def __init__(self, nodes: int, *, joins: dict[int, int] | None = None, answers: dict[int, float]) -> None:
        super().__init__(nodes)
        self.joins, self.answers = joins or {}, answers
        self.looks = 0
        self.asked: list[int] = []

    def get_node_ids(self) -> list[int]:
        """Those that have joined."""
        self.looks += 1
        return [node for node in self.contexts if self.joins.get(node, 0) <= self.looks]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As usual; who was asked is noted."""
        messages = list(messages)
        self.asked += [message.metadata.dst_node_id for message in messages]
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The answers of those that are done."""
        for reply in super().pull_messages(message_ids):
            if self.answers.get(reply.metadata.src_node_id, 0) <= self.looks:
                yield reply


def gathered(grid: LocalGrid, settings: Settings, count: int, wait: float) -> dict[int, Hello]:
    config = parse_config(settings | {"federation.clients-wait": wait})
    request = Request(run="r", round=0, class_names=task_of(config).class_names, domain_names=(), config=config.flat())
    fingerprint = clip_of(config).fingerprint
    return gather(grid, request, config=config, method=make_method(config), count=count, clip_fingerprint=fingerprint)


def test_a_silent_node_keeps_nobody_waiting(settings: Settings) -> None:
    """Those that join after a node that never answers are asked and let in; the silent one was asked once."""
    grid = Timed(4, joins={3: 3, 4: 5}, answers={1: float("inf")})
    started = time.monotonic()
    assert sorted(gathered(grid, settings, 3, wait=60.0)) == [2, 3, 4]
    assert time.monotonic() - started < 30
    assert sorted(grid.asked) == [1, 2, 3, 4]


def test_a_slow_node_is_let_in_when_it_answers(settings: Settings) -> None:
    """A node that needs long for its first answer is not asked again meanwhile, and takes part."""
    grid = Timed(4, answers={1: 6})
    members = gathered(grid, settings, 4, wait=60.0)
    assert sorted(members) == [1, 2, 3, 4]
    assert {hello.version for hello in members.values()} == {__version__}
    assert sorted(grid.asked) == [1, 2, 3, 4]


def test_silence_is_reported_at_the_end(settings: Settings) -> None:
    """Who is there, and how many were asked and did not answer."""
    words = r"3 of 4 clients are there \(photo-01, .*\) after 1 s \(asked and without an answer: 1\)"
    with pytest.raises(RunError, match=words):
        gathered(Timed(4, answers={1: float("inf")}), settings, 4, wait=1.0)
