"""A run's events as lines of a log, so that a terminal far from the server can follow it."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from common.progress import Progress
from common.record import Phase, Record, Round

MARK = "fedmoap-event "


class Event(BaseModel):
    """One event; which fields are there depends on its kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["started", "asked", "answered", "completed", "failed"]
    record: Record | None = None
    phase: Phase = "train"
    round_: int = 0
    clients: tuple[str, ...] = ()
    completed: Round | None = None
    reason: str = ""


def read_event(line: str) -> Event | None:
    """The event that a line of the log holds, wherever in it; None where it holds none."""
    _, mark, text = line.partition(MARK)
    if not mark:
        return None
    try:
        return Event.model_validate_json(text)
    except ValidationError:
        return None


def tell(event: Event, progress: Progress) -> None:
    """Passes an event on to whoever shows the run."""
    match event.kind:
        case "started" if event.record:
            progress.started(event.record)
        case "asked":
            progress.asked(event.phase, event.round_, event.clients)
        case "answered":
            progress.answered(event.clients[0])
        case "completed" if event.completed:
            progress.completed(event.completed)


def event_line(kind: str, **fields: Any) -> str:  # noqa: ANN401, the model checks them
    """The line of an event."""
    event = Event.model_validate({"kind": kind, **fields})
    return MARK + json.dumps(event.model_dump(mode="json", exclude_defaults=True), separators=(",", ":"))
