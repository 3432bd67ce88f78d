"""Progress as lines of a log, for a server without a terminal."""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from common.events import event_line
from common.record import Phase, Record, Round

logger = logging.getLogger("fedmoap.server")


class LogProgress:
    """Logs a run's events; with `events`, also as lines that a terminal elsewhere draws as its own."""

    def __init__(self, *, events: bool = False) -> None:
        self.events = events
        if events and not logger.handlers:
            handler = logging.StreamHandler(sys.stdout)
            handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False

    def _emit(self, kind: str, **fields: Any) -> None:  # noqa: ANN401, the model checks them
        if self.events:
            sys.stdout.write(event_line(kind, **fields) + "\n")
            sys.stdout.flush()

    def started(self, record: Record) -> None:
        """Logs who takes part."""
        logger.info("%s: %d clients, %d rounds done", record.method, len(record.clients), len(record.rounds))
        self._emit("started", record=record)

    def asked(self, phase: Phase, round_: int, clients: Sequence[str]) -> None:
        """Logs how many clients a phase asks."""
        logger.info("round %d: %s on %d clients", round_, phase, len(clients))
        self._emit("asked", phase=phase, round_=round_, clients=tuple(clients))

    def answered(self, client: str) -> None:
        """Logs a client's answer."""
        logger.debug("%s answered", client)
        self._emit("answered", clients=(client,))

    def completed(self, round_: Round) -> None:
        """Logs a round's outcome."""
        accuracy = "" if round_.accuracy is None else f", accuracy {round_.accuracy:.2f} %"
        logger.info("round %d: done in %.1f s%s", round_.number, round_.seconds, accuracy)
        for failure in round_.failures:
            logger.warning("round %d: %s: %s failed: %s", round_.number, failure.client, failure.phase, failure.reason)
        self._emit("completed", completed=round_)

    def failed(self, reason: str) -> None:
        """Logs why the run cannot go on."""
        logger.error("%s", reason)
        self._emit("failed", reason=reason)
