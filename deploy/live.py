"""A run on the terminal while it goes on: rounds, clients done, accuracy so far, time left."""

import statistics
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from common.plain import plain
from common.record import Phase, Record, Round


class Live:
    """Progress bars for the run and for the round, and a line for every round that is over."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
        )
        self.run = self.bars.add_task("forming the federation", total=None, note="")
        self.round = self.bars.add_task("", total=None, visible=False, note="")

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bars.stop()

    def started(self, record: Record) -> None:
        """Shows who takes part."""
        images = sum(sum(client.train) for client in record.clients)
        others = [f"{c.name} only tests" for c in record.clients if c.role == "unseen"]
        others += [f"{c.name} joins last" for c in record.clients if c.role == "newcomer"]
        taking_part = (
            f", seed {record.seed}: {len(record.clients)} clients{' (' + ', '.join(others) + ')' if others else ''}, "
            f"{images} training images of {len(record.class_names)} classes"
        )
        self.console.print(Text.assemble((plain(record.method), "bold"), plain(taking_part)))
        self.bars.reset(
            self.run, description="rounds", total=record.planned_rounds, completed=len(record.rounds), note=""
        )

    def asked(self, phase: Phase, round_: int, clients: Sequence[str]) -> None:
        """Shows the phase of a round and how many clients it waits for."""
        word = {"train": "training", "evaluate": "evaluating"}[phase]
        self.bars.reset(self.round, description=f"round {round_}, {word}", total=len(clients), visible=True)

    def answered(self, client: str) -> None:
        """Counts a client."""
        self.bars.update(self.round, advance=1, note=plain(client))

    def completed(self, round_: Round) -> None:
        """Prints the round's line."""
        accuracy = round_.accuracy
        reached = "" if accuracy is None else f"accuracy {accuracy:5.2f} %"
        trained = [entry.loss for entry in round_.trained]
        loss = f"loss {statistics.fmean(trained):.3f}  " if trained else ""
        self.console.print(f"round {round_.number:3d}  {loss}{reached}  {round_.seconds:.1f} s")
        for failure in round_.failures:
            words = f"{failure.client} failed to {failure.phase}: {failure.reason}"
            self.console.print(Text(f"  {plain(words)}", "yellow"))
        self.bars.update(self.run, advance=1, note=reached)
