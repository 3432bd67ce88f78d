"""Messages out, answers in: which client said what, and who did not."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from common.plain import short

POLL_SECONDS = 0.02
"""First pause between two looks for answers; it doubles up to `POLL_LIMIT`, so that a long round polls little."""
POLL_LIMIT = 1.0
_RAISED = re.compile(r"<class '.*?'>:<'(?P<words>.*)'>", re.DOTALL)
_SIMULATED = "Exception ClientAppException occurred. Message: "
"""What Flower puts around the words of a ClientApp's exception."""


@dataclass(frozen=True)
class Answer:
    """A client's reply, or why there is none."""

    reply: Message | None
    problem: str = ""


UNREACHABLE = Answer(None, "the SuperLink cannot reach it")


def exchange(
    grid: Grid, requests: Mapping[str, Message], *, timeout: float, answered: Callable[[str], None]
) -> dict[str, Answer]:
    """One answer for every client in `requests`, in their order; `answered` hears of each as it comes.

    An error is laid to the client that was asked, not to the node that it seems to come from: a dead node's error
    reply names the SuperLink as its source.
    """
    ids = send(grid, list(requests.values()))
    asked = {message_id: client for message_id, client in zip(ids, requests, strict=True) if message_id}
    answers = {
        client: Answer(None, f"no answer within {timeout:g} s") if message_id else UNREACHABLE
        for message_id, client in zip(ids, requests, strict=True)
    }
    waiting, deadline, pause = set(asked), time.monotonic() + timeout, POLL_SECONDS
    while waiting and time.monotonic() < deadline:
        replies = list(grid.pull_messages(waiting))
        for reply in replies:
            message_id = reply.metadata.reply_to_message_id
            waiting.discard(message_id)
            answers[asked[message_id]] = answer_of(reply)
            answered(asked[message_id])
        pause = POLL_SECONDS if replies else min(2 * pause, POLL_LIMIT)
        if waiting:
            time.sleep(pause)
    return answers


def send(grid: Grid, messages: Sequence[Message]) -> list[str]:
    """The id of each message; an empty word where the SuperLink cannot reach its node or is too busy to try."""
    return list(grid.push_messages(messages)) or [""] * len(messages)


def answer_of(reply: Message) -> Answer:
    """What a reply says."""
    return Answer(None, _reason(reply)) if reply.has_error() else Answer(reply)


def _reason(reply: Message) -> str:
    """The last line of what the client's exception said, or of what Flower says in its place."""
    reason = reply.error.reason or ""
    raised = _RAISED.fullmatch(reason)
    lines = [line.strip() for line in (raised["words"] if raised else reason).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("For further information visit")]  # pydantic's last line
    words = lines[-1].removeprefix(_SIMULATED) if lines else "no reason given"
    return f"{short(words)} (code {reply.error.code})"
