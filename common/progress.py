"""What a run tells while it goes on."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from common.record import Phase, Record, Round


@runtime_checkable
class Progress(Protocol):
    """Hears of a run's events, in order; a terminal draws them, a server without one logs them."""

    def started(self, record: Record) -> None:
        """All clients are there; `record` holds the rounds done before, where a run is resumed."""

    def asked(self, phase: Phase, round_: int, clients: Sequence[str]) -> None:
        """A round's messages of one phase, `train` or `evaluate`, are on their way."""

    def answered(self, client: str) -> None:
        """One client answered."""

    def completed(self, round_: Round) -> None:
        """A round is over and on disk."""
