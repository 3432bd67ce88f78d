"""Tables from records alone. Percentages, means and spreads are computed here, from counts, at the last round."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from common.methods import METHODS
from common.plain import plain
from common.record import Evaluated, Question, Record, Role, Round


class View(NamedTuple):
    """One question that a table answers: which model, on whose test parts, after which round."""

    name: str
    """What stands behind the method's name; nothing for the main one, each client's own model."""
    question: Question
    role: Role
    chosen: bool = False
    """After the round that the validation parts choose, instead of the last."""


OWN = View("", "personal", "trains")
GLOBAL = View("global", "global", "trains")
UNSEEN = View("unseen", "global", "unseen")
KIB = 1024
VIEWS = (
    OWN,
    GLOBAL,
    UNSEEN,
    UNSEEN._replace(name="unseen, round", chosen=True),
    View("newcomer", "global", "newcomer"),
    View("newcomer, trained once", "newcomer", "newcomer"),
)


@dataclass(frozen=True)
class Summary:
    """One method over all of its runs in one view: accuracies in percent."""

    method: str
    view: View
    seeds: tuple[int, ...]
    rounds: tuple[int, ...]
    """After which round each run's figures are."""
    late: bool
    """Whether the figures are of an earlier round than a finished run's last, after which nobody answered."""
    by_client: dict[str, list[float]]
    """Percentages by client, one a seed."""
    asked: int
    """How many percentages there would be if every client had answered."""
    bytes_down: float
    bytes_up: float
    """Mean over clients and rounds of what training sends; evaluation, which is for us to look, is left out."""
    parameters: int
    model_bytes: int
    """Of the whole CLIP in fp32: what a client would upload if all of it were trained."""
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


def counts(record: Record, round_: Round, view: View) -> tuple[Evaluated, ...]:
    """The counts of a round that a view is about."""
    of = {client.name for client in record.clients if client.role == view.role}
    return tuple(entry for entry in round_.evaluated if entry.question == view.question and entry.client in of)


def round_of(record: Record, view: View) -> Round | None:
    """The round that a view looks at: the last in which it was evaluated, or the chosen one; None if there is none.

    Chosen is the first round with the best mean accuracy over the clients' validation parts, by the server's model
    where clients have one of their own.
    """
    found = [round_ for round_ in record.rounds if counts(record, round_, view)]
    if not view.chosen:
        return found[-1] if found else None
    judged = {round_.number: _validation(record, round_) for round_ in found}
    best = max((score for score in judged.values() if score is not None), default=None)
    return next((round_ for round_ in found if best is not None and judged[round_.number] == best), None)


def _validation(record: Record, round_: Round) -> float | None:
    """Mean accuracy over the clients' validation parts, or None where there are none."""
    for view in (GLOBAL, OWN):
        judged = [entry for entry in counts(record, round_, view) if entry.validation_total]
        if judged:
            return statistics.fmean(entry.validation_correct / entry.validation_total for entry in judged)
    return None


def percent(entry: Evaluated) -> float:
    """Accuracy in percent."""
    return 100 * entry.correct / entry.total


def variants(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Runs that differ in nothing but their seed, by method and by what tells the variant from the others."""
    settings = [{key: value for key, value in record.config.items() if _matters(key, record)} for record in records]
    values: dict[str, set[object]] = {}
    for key, value in (item for one in settings for item in one.items()):
        values.setdefault(key, set()).add(value)
    found: dict[str, list[Record]] = {}
    for record, one in zip(records, settings, strict=True):
        words = [record.method, *(f"{key}={value!r}" for key, value in one.items() if len(values[key]) > 1)]
        found.setdefault(" ".join([*words, *([] if record.finished else ["unfinished"])]), []).append(record)
    return found


def _matters(key: str, record: Record) -> bool:
    """Whether a key decides what the run computes: no folder, no seed and no other method's option."""
    section = key.partition(".")[0]
    return key not in {"seed", "out", "resume", "method"} and (section not in METHODS or section == record.method)


def summarise(records: Sequence[Record]) -> list[Summary]:
    """A summary for each view and variant, in the order the variants come in."""
    alike = variants(records)
    return [
        _summary(name, view, found)
        for view in VIEWS
        for name, runs in alike.items()
        if (found := [(run, round_) for run in runs if (round_ := round_of(run, view))])
    ]


def _summary(method: str, view: View, runs: Sequence[tuple[Record, Round]]) -> Summary:
    by_client: dict[str, list[float]] = {}
    for run, at in runs:
        for entry in counts(run, at, view):
            by_client.setdefault(entry.client, []).append(percent(entry))
    rounds = [round_ for run, _ in runs for round_ in run.rounds]
    trained = [entry for round_ in rounds for entry in round_.trained]
    turns = len(trained) or 1
    return Summary(
        method=method,
        view=view,
        seeds=tuple(run.seed for run, _ in runs),
        rounds=tuple(at.number for _, at in runs),
        late=not view.chosen and any(run.finished and at.number < len(run.rounds) for run, at in runs),
        by_client=by_client,
        asked=sum(client.role == view.role for run, _ in runs for client in run.clients),
        bytes_down=sum(entry.bytes_down for entry in trained) / turns,
        bytes_up=sum(entry.bytes_up for entry in trained) / turns,
        parameters=max((entry.parameters for entry in trained), default=0),
        model_bytes=4 * max(run.clip_parameters for run, _ in runs),
        seconds=statistics.fmean(round_.seconds for round_ in rounds) if rounds else 0.0,
    )


HEADINGS = ("method", "n", "accuracy %", "worst client", "KiB\ndown", "KiB\nup", "model\n/up", "trained", "s a\nround")


def kibibytes(count: float) -> str:
    """A number of bytes in KiB, with a decimal where there are few."""
    return f"{count / KIB:.1f}" if count < 100 * KIB else f"{count / KIB:,.0f}"


def rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """The comparison as words, a row a summary, in the order of `HEADINGS`."""
    return [
        (
            s.method + _behind(s),
            str(len(s.seeds)),
            f"{s.mean:.2f} ± {s.spread:.2f}",
            f"{s.worst[1]:.2f} {s.worst[0]}" if len(s.by_client) > 1 else "-",
            kibibytes(s.bytes_down),
            kibibytes(s.bytes_up),
            f"{s.model_bytes / s.bytes_up:.0f}x" if s.bytes_up else "-",
            f"{s.parameters:,}",
            f"{s.seconds:.2f}",
        )
        for s in summaries
    ]


def _behind(summary: Summary) -> str:
    """What the method's name alone would not say: the view, and whose answers or which round the figures lack."""
    rounds, answers = "/".join(map(str, summary.rounds)), len(summary.values)
    words = [f"{summary.view.name} {rounds}" if summary.view.chosen else summary.view.name]
    words += [f"round {rounds}"] if summary.late else []
    words += [f"{answers} of {summary.asked} answers"] if answers < summary.asked else []
    said = ", ".join(filter(None, words))
    return f" ({said})" if said else ""


def _shown(words: str) -> str:
    """The words in a cell as they are: one line, without markup."""
    return escape(plain(words))


def comparison(summaries: Sequence[Summary], title: str) -> Table:
    """One row a method: mean ± standard deviation over clients and n seeds, worst client, traffic, cost."""
    table = Table(title=_shown(title), title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for number, (heading, *cells) in enumerate(zip(HEADINGS, *rows(summaries), strict=True)):
        widest = max(map(len, (*heading.split(), *(" ".join(cells).split() if number == 0 else cells))))
        table.add_column(heading, justify="left" if number in {0, 3} else "right", min_width=widest)
    for row in rows(summaries):
        table.add_row(*map(_shown, row))
    return table


def markdown(summaries: Sequence[Summary], title: str) -> str:
    """The comparison as a Markdown table."""
    headings = tuple(heading.replace("\n", " ") for heading in HEADINGS)
    lines = [headings, ("---",) * len(headings), *rows(summaries)]
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def clients_table(record: Record) -> Table:
    """One run's result: every client's images and accuracy after the last round that was evaluated."""
    looked = [(view, at) for view in reversed(VIEWS) if not view.chosen and (at := round_of(record, view))]
    number = max((at.number for _, at in looked), default=len(record.rounds))
    table = Table(title=_shown(f"{record.method}, seed {record.seed}, round {number}"), title_justify="left")
    for heading in ("client", "domain", "classes", "train", "test"):
        table.add_column(heading, justify="left" if heading in {"client", "domain"} else "right")
    table.add_column("accuracy %", justify="right")
    found = {entry.client: entry for view, at in looked if at.number == number for entry in counts(record, at, view)}
    for client in record.clients:
        entry = found.get(client.name)
        table.add_row(
            _shown(client.name) + (" (newcomer)" if client.role == "newcomer" else ""),
            _shown(client.domain or "-"),
            str(sum(1 for count in client.train if count)),
            str(sum(client.train)),
            str(sum(client.test)),
            f"{percent(entry):.2f}" if entry else "-",
        )
    return table


def heading(records: Sequence[Record]) -> str:
    """Data sets, partitions and seeds that a comparison stands on."""
    seeds = sorted({record.seed for record in records})
    seeds_word = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
    return f"{'; '.join(dict.fromkeys(map(_federation, records)))}, last round, {seeds_word}"


def _federation(record: Record) -> str:
    clients = sum(client.role != "unseen" for client in record.clients)
    unseen = "".join(f", {client.domain} unseen" for client in record.clients if client.role == "unseen")
    kind = record.config["partition.kind"]
    dealt = "" if record.config.get("federation.sites") else f", {kind} partition"  # real sites were dealt none
    return f"{record.data}{dealt}, {clients} clients{unseen}"
