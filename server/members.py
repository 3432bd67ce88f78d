"""Before round 1: who is there, what each holds, and whether it may take part."""

import time
from collections.abc import Collection, Sequence

import torch
from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from common import __version__
from common.config import RunConfig
from common.errors import RunError
from common.method import Method
from common.plain import short
from common.record import Role
from common.seeding import generator
from common.wire import Hello, Request, pack, unpack
from server.exchange import POLL_LIMIT, POLL_SECONDS, UNREACHABLE, Answer, answer_of, send
from server.log import logger

ASK_AGAIN_SECONDS = 15.0
"""Pause before a refused client is asked again."""


def gather(
    grid: Grid,
    request: Request,
    *,
    config: RunConfig,
    method: Method,
    count: int,
    clip_fingerprint: str,
    only: Collection[str] | None = None,
) -> dict[int, Hello]:
    """The `count` clients that take part, by node id, once each has said who it is.

    A client with another CLIP, another version, images that give it no part in the run, a name that is taken or,
    where `only` names the clients of a run that goes on, a name that is none of them, is refused, with a line in the
    log and in its own; it is asked again after a while, since its owner may have put right what was wrong. One that
    is slow to answer, or never does, keeps nobody else waiting.

    Raises:
        RunError: fewer than `count` could be had within `federation.clients-wait`; says why the others were refused,
            and how many did not answer.
    """
    sites = config.federation.sites  # of simulated clients none can put its domain right: `roles` says so at once
    by_domain = method.name if sites and method.by_domain else ""
    wait = config.federation.clients_wait
    accepted: dict[int, Hello] = {}
    refused: dict[int, str] = {}
    not_before: dict[int, float] = {}
    waiting: dict[str, int] = {}
    deadline, pause = time.monotonic() + wait, POLL_SECONDS
    while True:
        now, asked = time.monotonic(), accepted.keys() | waiting.values()
        unknown = [n for n in grid.get_node_ids() if n not in asked and not_before.get(n, now) <= now]
        answers = _answers(grid, request, unknown, waiting)
        for node, answer in answers:
            try:
                if answer.reply is None:
                    raise ValueError(answer.problem)  # noqa: TRY301
                hello = unpack(Hello, answer.reply)
                _check_counts(hello, len(request.class_names))
                _check(hello, accepted, clip_fingerprint, only, count)
                _role(hello, unseen=config.partition.unseen, by_domain=by_domain)
            except ValueError as error:
                reason = short(str(error))
                not_before[node] = time.monotonic() + ASK_AGAIN_SECONDS
                if refused.get(node) == reason:
                    continue
                refused[node] = reason
                logger.warning("refused a client: %s", reason)
                if answer.reply is not None:
                    send(grid, [_hello(node, request.model_copy(update={"refused": reason}))])
            else:
                accepted[node] = hello
                logger.info("%s is there: %d training images", hello.client, sum(hello.train))
                refused.pop(node, None)
        if len(accepted) == count:
            return accepted
        if time.monotonic() > deadline:
            raise RunError(_missing(accepted.values(), count, wait, refused, len(waiting)))
        pause = POLL_SECONDS if answers else min(2 * pause, POLL_LIMIT)
        time.sleep(pause)


def _answers(grid: Grid, request: Request, unknown: Sequence[int], waiting: dict[str, int]) -> list[tuple[int, Answer]]:
    """Asks the nodes that are not known yet; what has come of all hellos that are out, which `waiting` names by node.

    A hello stays out for as long as its node takes, which may be loading a CLIP for the first time; nobody else waits.
    """
    ids = send(grid, [_hello(node, request) for node in unknown]) if unknown else []
    found = [(node, UNREACHABLE) for node, message_id in zip(unknown, ids, strict=True) if not message_id]
    waiting |= {message_id: node for node, message_id in zip(unknown, ids, strict=True) if message_id}
    pulled = grid.pull_messages(list(waiting)) if waiting else ()
    replies = {reply.metadata.reply_to_message_id: reply for reply in pulled}
    in_order = [message_id for message_id in waiting if message_id in replies]
    return found + [(waiting.pop(message_id), answer_of(replies[message_id])) for message_id in in_order]


def _hello(node: int, request: Request) -> Message:
    return Message(pack(request), dst_node_id=node, message_type=MessageType.QUERY)


def _check(
    hello: Hello, accepted: dict[int, Hello], clip_fingerprint: str, only: Collection[str] | None, count: int
) -> None:
    if hello.client in {other.client for other in accepted.values()}:
        raise ValueError(f"{hello.client}: another client has this name")
    if only is not None and hello.client not in only:
        raise ValueError(f"{hello.client}: is none of the run's clients ({', '.join(sorted(only))})")
    if hello.version != __version__:
        raise ValueError(f"{hello.client}: runs fedmoap {hello.version}, the server {__version__}")
    if hello.clip_fingerprint != clip_fingerprint:
        raise ValueError(
            f"{hello.client}: its CLIP has fingerprint {hello.clip_fingerprint}, the server's has {clip_fingerprint}"
        )
    if len(accepted) == count:
        raise ValueError(f"{hello.client}: is not needed, {count} clients are there already")


def _check_counts(hello: Hello, classes: int) -> None:
    for part, counts in (("train", hello.train), ("test", hello.test), ("validation", hello.validation)):
        if len(counts) != classes and (counts or part != "validation"):
            raise ValueError(f"{hello.client}: {part} counts of {len(counts)} classes instead of {classes}")


def _role(hello: Hello, *, unseen: str, by_domain: str) -> Role:
    """What a client can do by what it holds; `by_domain` is the method that needs each client's domain, if it does."""
    trains, name = any(hello.train), hello.client
    if trains and unseen and hello.domain == unseen:
        raise ValueError(f"partition.unseen = {unseen!r}: client {name!r} would train on this domain")
    if not trains and hello.domain != (unseen or None):
        raise ValueError(f"client {name!r} has no training image, and only partition.unseen needs none")
    if trains and by_domain and not hello.domain:
        raise ValueError(f"{by_domain}: client {name!r} has no domain; its images must all be of one")
    if not any(hello.test):
        raise ValueError(f"client {name!r} has no test image")
    return "trains" if trains else "unseen"


def roles(
    hellos: Collection[Hello], method: Method, domains: Sequence[str], *, unseen: str, newcomers: int, seed: int
) -> dict[str, Role]:
    """What part each client has in the run; which of those who could train are newcomers is drawn with `seed`.

    Raises:
        ValueError: a client or a domain that cannot have a part in it; names it.
    """
    by_domain = method.name if method.by_domain else ""
    found = {
        hello.client: _role(hello, unseen=unseen, by_domain=by_domain)
        for hello in sorted(hellos, key=lambda hello: hello.client)
    }
    able = [name for name, role in found.items() if role == "trains"]
    if newcomers >= len(able):
        raise ValueError(f"federation.newcomers = {newcomers}: must be fewer than the {len(able)} that could train")
    order = torch.randperm(len(able), generator=generator(seed, "newcomers")).tolist()
    found |= dict.fromkeys((able[i] for i in order[:newcomers]), "newcomer")
    trained = {hello.domain for hello in hellos if found[hello.client] == "trains"}
    if method.by_domain and (idle := [domain for domain in domains if domain not in trained]):
        raise ValueError(f"{method.name}: no client trains on domain {idle[0]!r}")
    return found


def _missing(accepted: Collection[Hello], count: int, wait: float, refused: dict[int, str], silent: int) -> str:
    there = f" ({', '.join(sorted(hello.client for hello in accepted))})" if accepted else ""
    reasons = [f"refused: {'; '.join(sorted(set(refused.values())))}"] if refused else []
    reasons += [f"asked and without an answer: {silent}"] if silent else []
    others = f" ({', '.join(reasons)})" if reasons else ""
    return f"{len(accepted)} of {count} clients are there{there} after {wait:g} s{others}"
