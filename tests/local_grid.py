"""Flower's grid without Flower: the real ServerApp and ClientApp talk in one process, a message at a time."""

from collections.abc import Iterable
from pathlib import Path
from typing import Never

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from client.app import app
from common.config import Scalar
from common.methods import parse_config
from common.record import Record
from server.app import serve
from server.log import LogProgress


class LocalGrid(Grid):
    """As many nodes as clients, each of which answers as soon as it is asked."""

    def __init__(self, nodes: int) -> None:
        self.contexts = {
            node: Context(0, node, {"partition-id": node - 1, "num-partitions": nodes}, RecordDict(), {})
            for node in range(1, nodes + 1)
        }
        self.replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, from the start."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Has every message answered; an error travels as Flower has it travel."""
        found = []
        for message in messages:
            found.append(f"message-{len(self.replies)}")
            message.metadata.__dict__["_message_id"] = found[-1]
            self.replies[found[-1]] = app(message, self.contexts[message.metadata.dst_node_id])
        return found

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers."""
        return [self.replies[message_id] for message_id in message_ids]

    def set_run(self, run: object) -> None:
        """There is one run."""

    @property
    def run(self) -> Never:
        """Not asked for."""
        raise NotImplementedError

    def create_message(self, *_: object, **__: object) -> Message:
        """Not asked for."""
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Not asked for."""
        raise NotImplementedError


def run(settings: dict[str, Scalar], out: Path, **changes: Scalar) -> Record:
    """The record of a whole run in this process; `changes` are keys with `__` for a dot and `_` for a dash."""
    given = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    config = parse_config(settings | given | {"out": str(out)})
    return serve(LocalGrid(config.partition.nodes), config, LogProgress())
