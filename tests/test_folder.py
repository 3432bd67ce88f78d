"""A run's folder: what may be begun, gone on with or written over in it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.config import Scalar
from common.method import Tensors
from common.methods import METHODS
from common.record import Record
from server.checkpoint import FILE_NAME, save_checkpoint
from server.folder import alone
from tests.folders import classes
from tests.local_grid import run

Settings = dict[str, Scalar]


def results(record: Record) -> list[object]:
    """What the rounds came to, without times."""
    return [
        ([(t.client, t.loss, t.drew_on) for t in r.trained], [(e.client, e.correct, e.loss) for e in r.evaluated])
        for r in record.rounds
    ]


def test_one_process_at_a_time(settings: Settings, tmp_path: Path) -> None:
    """While somebody is at work on a run, nobody else begins or resumes one there."""
    out = tmp_path / "run"
    with alone(out, None), pytest.raises(ValueError, match="another process is at work"):
        run(settings, out, rounds=1)
    assert not (out / "record.json").exists()
    record = run(settings, out, rounds=1)
    with alone(out, record), pytest.raises(ValueError, match="another process is at work"):
        run(settings, out, rounds=1, resume=True)
    with pytest.raises(ValueError, match="has begun a run in it"), alone(out, None):
        pytest.fail("the folder is not as it was")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt__lr": 0.5}, "prompt.lr was 0.002 and is 0.5"),
        ({"rounds": 3}, "rounds was 2 and is 3"),
        ({"method": "coop"}, "method was 'pfedmoap' and is 'coop'"),
    ],
)
def test_a_run_goes_on_as_it_was_begun(settings: Settings, tmp_path: Path, change: Settings, words: str) -> None:
    """A resumed run with another option is refused, and its record stays as it was."""
    out = tmp_path / "run"
    run(settings, out, rounds=2)
    before = (out / "record.json").read_bytes()
    with pytest.raises(ValueError, match=words):
        run(settings, out, **{"rounds": 2, "resume": True} | change)
    assert (out / "record.json").read_bytes() == before


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_ended_between_record_and_checkpoint(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    """A record that is ahead of its checkpoint, or has none yet, is gone on with to the same numbers."""

    def cut_short(folder: Path, state: Tensors, record: Record) -> None:
        record.save(folder)
        if len(record.rounds) == rounds:
            raise KeyboardInterrupt
        save_checkpoint(folder, state, round_=len(record.rounds), run=record.run)

    whole, out = run(settings, tmp_path / "whole", rounds=2), tmp_path / "run"
    monkeypatch.setattr("server.app.save", cut_short)
    with pytest.raises(KeyboardInterrupt):
        run(settings, out, rounds=2)
    monkeypatch.undo()
    assert not Record.load(out).finished
    record = run(settings, out, rounds=2, resume=True)
    assert record.finished
    assert results(record) == results(whole)
    ours, theirs = (load_file(folder / FILE_NAME) for folder in (out, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("method", METHODS)
def test_classes_that_are_the_same_text(settings: Settings, tmp_path: Path, method: str) -> None:
    """No method runs where CLIP could not tell two classes apart; one line, and nothing is left behind."""
    same = {"data__name": str(classes(tmp_path / "d", ("a_cat", "A cat"))), "partition__kind": "iid"}
    with pytest.raises(ValueError, match="classes 'A cat' and 'a_cat' are the same text to CLIP"):
        run(settings, tmp_path / "run", method=method, partition__clients=2, **same)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["promptfl", "pfedmoap"])
def test_prompts_that_do_not_fit(settings: Settings, tmp_path: Path, method: str) -> None:
    """A context that leaves no place for the class names is refused before there is a run."""
    with pytest.raises(ValueError, match="does not fit the CLIP's 40 tokens beside 38 context tokens"):
        run(settings, tmp_path / "run", method=method, prompt__context_tokens=38)
    assert not (tmp_path / "run").exists()
    run(settings, tmp_path / "run", method=method, prompt__context_tokens=4, rounds=1)
    assert load_file(tmp_path / "run" / FILE_NAME)["context"].shape[0] == 4
