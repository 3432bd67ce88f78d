"""Progress as lines of a log, for a server without a terminal."""

import logging
from collections.abc import Sequence

from common.record import Phase, Record, Round

logger = logging.getLogger("fedmoap.server")


class LogProgress:
    """Logs a run's events."""

    def started(self, record: Record) -> None:
        """Logs who takes part."""
        logger.info("%s: %d clients, %d rounds done", record.method, len(record.clients), len(record.rounds))

    def asked(self, phase: Phase, round_: int, clients: Sequence[str]) -> None:
        """Logs how many clients a phase asks."""
        logger.info("round %d: %s on %d clients", round_, phase, len(clients))

    def answered(self, client: str) -> None:
        """Logs a client's answer."""
        logger.debug("%s answered", client)

    def completed(self, round_: Round) -> None:
        """Logs a round's outcome."""
        correct = sum(entry.correct for entry in round_.evaluated)
        total = sum(entry.total for entry in round_.evaluated)
        accuracy = f", accuracy {100 * correct / total:.2f} %" if total else ""
        logger.info("round %d: done in %.1f s%s", round_.number, round_.seconds, accuracy)
        for failure in round_.failures:
            logger.warning("round %d: %s: %s failed: %s", round_.number, failure.client, failure.phase, failure.reason)
