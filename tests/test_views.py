"""What a table says, from records written by hand: whose figure, after which round."""

import pytest

from common.record import Client, Evaluated, Provenance, Question, Record, Round, Trained
from deploy.report import VIEWS, clients_table, comparison, heading, markdown, round_of, rows, summarise, variants

CLIENTS = (
    Client(name="a", domain="photo", train=(8,), test=(10,), validation=(10,)),
    Client(name="b", domain="paint", train=(8,), test=(10,), validation=(10,)),
    Client(name="late", role="newcomer", domain="photo", train=(8,), test=(10,)),
    Client(name="unseen-sketch", role="unseen", domain="sketch", train=(0,), test=(10,)),
)


def evaluated(client: str, correct: int, question: Question = "personal", validation: int | None = None) -> Evaluated:
    """So many correct of ten test images and, where asked for, of ten validation images."""
    kept_out = {} if validation is None else {"validation_correct": validation, "validation_total": 10}
    return Evaluated(
        client=client, correct=correct, total=10, loss=1, seconds=1, bytes_down=0, question=question, **kept_out
    )


def record(*rounds: tuple[Evaluated, ...], method: str = "fedclip", seed: int = 0) -> Record:
    """A run in which two clients upload 1,000 bytes a round of a model of 25,000 parameters."""
    trained = [
        Trained(client=name, examples=8, parameters=250, loss=1, seconds=1, bytes_down=1000, bytes_up=1000)
        for name in ("a", "b")
    ]
    return Record(
        run="r",
        method=method,
        seed=seed,
        planned_rounds=len(rounds),
        finished=True,
        config={"partition.kind": "domain"},
        provenance=Provenance(commit=None, dirty=None, versions={}, device="cpu", started=""),
        data="toy",
        split="",
        notes=(),
        class_names=("x",),
        domain_names=("photo", "paint", "sketch"),
        data_fingerprint="",
        partition_digest="",
        clip_fingerprint="",
        clip_parameters=25_000,
        clients=CLIENTS,
        rounds=[
            Round(number=n, seconds=2, attempts=1, trained=tuple(trained), evaluated=entries)
            for n, entries in enumerate(rounds, 1)
        ],
    )


def both(a: int, b: int, unseen: int, validation: int) -> tuple[Evaluated, ...]:
    """A round's answers: two clients, one of them judged, and the unseen domain."""
    return (
        evaluated("a", a, validation=validation),
        evaluated("b", b, validation=validation),
        evaluated("unseen-sketch", unseen, "global"),
    )


def test_the_round_is_chosen_by_validation_alone() -> None:
    """The unseen domain's figure is given at the last round and at the first best by validation, never by its own."""
    run = record(both(5, 7, 9, 4), both(6, 8, 2, 6), both(9, 9, 3, 6), both(4, 6, 5, 5))
    found = {summary.view.name: summary for summary in summarise([run])}
    assert found["unseen"].mean == 50
    assert found["unseen, round"].rounds == (2,)
    assert found["unseen, round"].mean == 20
    assert found[""].mean == 50
    assert found[""].worst == ("a", 40)
    assert "newcomer" not in found


def test_without_validation_no_round_is_chosen() -> None:
    """No validation part, no chosen round: only the last one is reported."""
    run = record((evaluated("a", 5), evaluated("unseen-sketch", 4, "global")))
    assert [summary.view.name for summary in summarise([run])] == ["", "unseen"]


def test_the_server_s_model_is_what_is_chosen() -> None:
    """Where clients' own models are others, the round is chosen by the server's on their validation parts."""
    first = (evaluated("a", 5, validation=9), evaluated("a", 5, "global", 3), evaluated("unseen-sketch", 1, "global"))
    second = (evaluated("a", 5, validation=1), evaluated("a", 5, "global", 4), evaluated("unseen-sketch", 2, "global"))
    run = record(first, second, method="pfedmoap")
    chosen = next(view for view in VIEWS if view.chosen)
    at = round_of(run, chosen)
    assert at is not None
    assert at.number == 2


def test_rows_say_which_question_they_answer() -> None:
    """One row a method and question; newcomers before and after training; the model against the upload."""
    last = (
        *both(5, 7, 9, 4),
        evaluated("a", 2, "global"),
        evaluated("b", 4, "global"),
        evaluated("late", 6, "global"),
        evaluated("late", 8, "newcomer"),
    )
    runs = [record(last, seed=seed) for seed in (0, 1)]
    table = rows(summarise(runs))
    assert [row[0] for row in table] == [
        "fedclip",
        "fedclip (global)",
        "fedclip (unseen)",
        "fedclip (unseen, round 1/1)",
        "fedclip (newcomer)",
        "fedclip (newcomer, trained once)",
    ]
    assert [row[2].split(" ")[0] for row in table] == ["60.00", "30.00", "90.00", "90.00", "60.00", "80.00"]
    assert all("100x" in row for row in table)
    assert "sketch unseen" in heading(runs)
    assert "domain partition, 3 clients" in heading(runs)
    real = [run.model_copy(update={"config": run.config | {"federation.sites": 3}}) for run in runs]
    assert "partition" not in heading(real)
    assert comparison(summarise(runs), "t").row_count == 6
    assert markdown(summarise(runs), "t").count("\n") == 10


def test_runs_that_differ_are_told_apart() -> None:
    """Runs of one method with other options, of other data, or that are not finished are no seeds of one another."""
    one = record((evaluated("a", 5),), method="pfedmoap")
    experts = {"pfedmoap.experts": 3, "fedapt.lr": 0.1}
    runs = [
        one.model_copy(update={"config": one.config | experts}),
        one.model_copy(update={"config": one.config | experts | {"pfedmoap.experts": 9, "fedapt.lr": 0.2}, "seed": 1}),
        one.model_copy(update={"config": one.config | experts | {"fedapt.lr": 0.3}, "seed": 1, "finished": False}),
    ]
    assert list(variants(runs)) == [
        "pfedmoap pfedmoap.experts=3",
        "pfedmoap pfedmoap.experts=9",
        "pfedmoap pfedmoap.experts=3 unfinished",
    ]
    assert list(variants(runs[:1])) == ["pfedmoap"]
    other = one.model_copy(update={"data": "others"})
    federation = "domain partition, 3 clients, sketch unseen"
    assert heading([one, other]) == f"toy, {federation}; others, {federation}, last round, seed 0"


@pytest.mark.parametrize("question", ["personal", "global", "newcomer"])
def test_a_run_that_answers_nothing(question: Question) -> None:
    """A run without answers has no rows, whatever was asked."""
    assert not [s for s in summarise([record(())]) if s.view.question == question]


def test_a_missing_answer_is_said() -> None:
    """A mean over fewer clients than there are, or of an earlier round, says so; nothing is made up from before."""
    half = record((evaluated("a", 5), evaluated("b", 1)), (evaluated("a", 9),))
    assert [row[0] for row in rows(summarise([half]))] == ["fedclip (1 of 2 answers)"]
    cells = [list(column.cells) for column in clients_table(half).columns]
    assert cells[-1] == ["90.00", "-", "-", "-"]
    nobody = record((evaluated("a", 5), evaluated("b", 1)), ())
    assert [row[0] for row in rows(summarise([nobody]))] == ["fedclip (round 1)"]
    assert clients_table(nobody).title == "fedclip, seed 0, round 1"
