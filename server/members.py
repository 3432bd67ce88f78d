"""Before round 1: who is there, what each holds, and whether it may take part."""

import time
from collections.abc import Callable

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from common import __version__
from common.errors import RunError
from common.wire import Hello, Request, pack, unpack
from server.exchange import exchange


def gather(
    grid: Grid,
    request: Request,
    *,
    count: int,
    clip_fingerprint: str,
    wait: float,
    log: Callable[[str], None],
) -> dict[int, Hello]:
    """The `count` clients that take part, by node id, once each has said who it is.

    A client with another CLIP, another version or a name that is taken is refused, with a line in the log.

    Raises:
        RunError: fewer than `count` could be had within `wait` seconds; says why the others were refused.
    """
    accepted: dict[int, Hello] = {}
    refused: dict[int, str] = {}
    deadline = time.monotonic() + wait
    while len(accepted) < count:
        unknown = [node for node in grid.get_node_ids() if node not in accepted and node not in refused]
        if not unknown:
            if time.monotonic() > deadline:
                raise RunError(_missing(len(accepted), count, wait, refused))
            time.sleep(0.1)
            continue
        messages = {
            str(node): Message(pack(request), dst_node_id=node, message_type=MessageType.QUERY)
            for node in unknown
        }
        answers = exchange(grid, messages, timeout=wait, answered=lambda _: None)
        for node, answer in zip(unknown, answers.values(), strict=True):
            try:
                if answer.reply is None:
                    raise ValueError(answer.problem)  # noqa: TRY301
                hello = unpack(Hello, answer.reply)
                _check(hello, accepted, clip_fingerprint)
            except ValueError as error:
                refused[node] = str(error)
                log(f"refused a client: {error}")
            else:
                accepted[node] = hello
    return accepted


def _check(hello: Hello, accepted: dict[int, Hello], clip_fingerprint: str) -> None:
    if hello.client in {other.client for other in accepted.values()}:
        raise ValueError(f"{hello.client}: another client has this name")
    if hello.version != __version__:
        raise ValueError(f"{hello.client}: runs fedmoap {hello.version}, the server {__version__}")
    if hello.clip_fingerprint != clip_fingerprint:
        raise ValueError(
            f"{hello.client}: its CLIP has fingerprint {hello.clip_fingerprint}, the server's has {clip_fingerprint}"
        )


def _missing(found: int, count: int, wait: float, refused: dict[int, str]) -> str:
    reasons = f" (refused: {'; '.join(sorted(set(refused.values())))})" if refused else ""
    return f"{found} of {count} clients are there after {wait:g} s{reasons}"
