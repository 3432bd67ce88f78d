"""The real ClientApp with two faults: one client fails in round 2, another uploads NaN in round 3.

As a command, `python -m tests.faulty_client SETTINGS`, it simulates a federation of such clients.
"""

import json
import pkgutil
import sys
from unittest.mock import patch

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from rich.console import Console

from client.app import app as real
from common.methods import parse_config
from common.wire import Request, TrainReply, pack, unpack
from deploy.live import Live
from deploy.simulate import simulate

app = ClientApp()


@app.query()
def hello(message: Message, context: Context) -> Message:
    """As the real one."""
    return real(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """As the real one."""
    return real(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """As the real one, but for the two faults."""
    reply = real(message, context)
    request, sent = unpack(Request, message), unpack(TrainReply, reply)
    if (request.round, sent.client) == (2, "photo-00"):
        raise OSError("the disk is full")
    if (request.round, sent.client) == (3, "sketch-01"):
        broken = sent.model_copy(update={"tensors": {"context": torch.full_like(sent.tensors["context"], torch.nan)}})
        return Message(pack(broken), reply_to=message)
    return reply


def main() -> None:
    """Simulates the federation that the first argument, in JSON, configures."""
    resolve = pkgutil.resolve_name
    with (
        patch.object(pkgutil, "resolve_name", lambda name: app if name == "client.app:app" else resolve(name)),
        Live(Console(quiet=True)) as progress,
    ):
        simulate(parse_config(json.loads(sys.argv[1])), progress)


if __name__ == "__main__":
    main()
