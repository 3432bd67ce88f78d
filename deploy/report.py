"""Tables from records alone. Percentages, means and spreads are computed here, from counts, at the last round."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

from common.record import Evaluated, Record

Question = Literal["personal", "global", "newcomer"]


@dataclass(frozen=True)
class Summary:
    """One method over all of its runs on one question: accuracies in percent at the last evaluated round."""

    method: str
    question: Question
    seeds: tuple[int, ...]
    by_client: dict[str, list[float]]
    """Percentages by client, one a seed."""
    bytes_down: float
    bytes_up: float
    """Mean over clients and rounds, training and evaluation together."""
    parameters: int
    seconds: float
    """Mean of a round."""

    @property
    def values(self) -> list[float]:
        """All percentages, clients and seeds together."""
        return [value for values in self.by_client.values() for value in values]

    @property
    def mean(self) -> float:
        """Mean over clients and seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over clients and seeds (n - 1); 0 for a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def worst(self) -> tuple[str, float]:
        """The client with the lowest mean over seeds, and that mean."""
        means = {client: statistics.fmean(values) for client, values in self.by_client.items()}
        client = min(means, key=lambda name: (means[name], name))
        return client, means[client]


def last_evaluation(record: Record, question: Question = "personal") -> tuple[Evaluated, ...]:
    """The counts of the last round in which clients were evaluated; none where none was."""
    for round_ in reversed(record.rounds):
        found = tuple(entry for entry in round_.evaluated if entry.question == question)
        if found:
            return found
    return ()


def percent(entry: Evaluated) -> float:
    """Accuracy in percent."""
    return 100 * entry.correct / entry.total


def summarise(records: Iterable[Record]) -> list[Summary]:
    """A summary for each method and question, in the order the methods come in."""
    by_method: dict[str, list[Record]] = {}
    for record in records:
        by_method.setdefault(record.method, []).append(record)
    questions: tuple[Question, ...] = ("personal", "global", "newcomer")
    return [
        _summary(method, question, runs)
        for method, runs in by_method.items()
        for question in questions
        if any(last_evaluation(run, question) for run in runs)
    ]


def _summary(method: str, question: Question, runs: Sequence[Record]) -> Summary:
    by_client: dict[str, list[float]] = {}
    for run in runs:
        for entry in last_evaluation(run, question):
            by_client.setdefault(entry.client, []).append(percent(entry))
    rounds = [round_ for run in runs for round_ in run.rounds]
    trained = [entry for round_ in rounds for entry in round_.trained]
    turns = len(trained) or 1
    evaluated_down = sum(entry.bytes_down for round_ in rounds for entry in round_.evaluated)
    return Summary(
        method=method,
        question=question,
        seeds=tuple(sorted(run.seed for run in runs)),
        by_client=by_client,
        bytes_down=(sum(entry.bytes_down for entry in trained) + evaluated_down) / turns,
        bytes_up=sum(entry.bytes_up for entry in trained) / turns,
        parameters=max((entry.parameters for entry in trained), default=0),
        seconds=statistics.fmean(round_.seconds for round_ in rounds) if rounds else 0.0,
    )


def size(count: float) -> str:
    """A number of bytes for people, in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:  # noqa: PLR2004, binary units
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


HEADINGS = (
    "method",
    "seeds",
    "accuracy %",
    "worst client",
    "down/client/round",
    "up/client/round",
    "trained",
    "s/round",
)


def rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """The comparison as words, a row a summary, in the order of `HEADINGS`."""
    return [
        (
            s.method if s.question == "personal" else f"{s.method} ({s.question})",
            str(len(s.seeds)),
            f"{s.mean:.2f} ± {s.spread:.2f}",
            f"{s.worst[0]} {s.worst[1]:.2f}",
            size(s.bytes_down),
            size(s.bytes_up),
            f"{s.parameters:,}",
            f"{s.seconds:.2f}",
        )
        for s in summaries
    ]


def comparison(summaries: Sequence[Summary], title: str) -> Table:
    """One row a method: mean ± standard deviation over clients and seeds, worst client, traffic, cost."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if number in {0, 3} else "right", no_wrap=number == 0)
    for row in rows(summaries):
        table.add_row(*row)
    return table


def markdown(summaries: Sequence[Summary], title: str) -> str:
    """The comparison as a Markdown table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *rows(summaries)]
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def clients_table(record: Record) -> Table:
    """One run's result: every client's images and accuracy at the last round."""
    table = Table(title=f"{record.method}, seed {record.seed}, round {len(record.rounds)}", title_justify="left")
    for heading in ("client", "domain", "classes", "train", "test"):
        table.add_column(heading, justify="left" if heading in {"client", "domain"} else "right")
    table.add_column("accuracy %", justify="right")
    found = {entry.client: entry for entry in last_evaluation(record)}
    for client in record.clients:
        entry = found.get(client.name)
        table.add_row(
            client.name,
            client.domain or "-",
            str(sum(1 for count in client.train if count)),
            str(sum(client.train)),
            str(sum(client.test)),
            f"{percent(entry):.2f}" if entry else "-",
        )
    return table


def heading(records: Sequence[Record]) -> str:
    """Data set, partition and seeds that a comparison stands on."""
    first = records[0]
    seeds = sorted({record.seed for record in records})
    kind, clients = first.config["partition.kind"], len(first.clients)
    seeds_word = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
    return f"{first.data}, {kind} partition, {clients} clients, last round, {seeds_word}"
