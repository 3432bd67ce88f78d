import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.checkpoint import FILE_NAME, load_checkpoint, save_checkpoint
from server.sampling import sample
from server.uploads import objection

LIKE = {"context": torch.zeros(2, 3), "adapter.weight": torch.zeros(4)}


@given(
    clients=st.integers(1, 40),
    participation=st.floats(0.01, 1.0),
    seed=st.integers(0, 5),
    round_=st.integers(1, 100),
)
def test_sampling_depends_on_seed_and_round_alone(clients: int, participation: float, seed: int, round_: int) -> None:
    """The share asked for, at least one, no client twice, and the same whatever order the clients came in."""
    names = [f"client-{number:02d}" for number in range(clients)]
    arguments = {"rule": "uniform", "participation": participation, "seed": seed, "round_": round_}
    chosen = sample(dict.fromkeys(names, ""), **arguments)
    assert chosen == sample(dict.fromkeys(reversed(names), ""), **arguments)
    assert len(chosen) == len(set(chosen)) == max(1, round(participation * clients))
    assert set(chosen) <= set(names)


def test_sampling_changes_with_round_and_seed() -> None:
    """Other rounds and other seeds, 0 among them, choose other clients."""
    domains = dict.fromkeys([f"client-{number}" for number in range(50)], "")
    draws = {
        tuple(sample(domains, rule="uniform", participation=0.2, seed=seed, round_=round_))
        for seed in (0, 1)
        for round_ in range(1, 6)
    }
    assert len(draws) == 10


def test_one_client_of_each_domain() -> None:
    """`one-per-domain` takes exactly one client of each domain, and over rounds each of them."""
    domains = {"a": "photo", "b": "photo", "c": "sketch", "d": "sketch", "e": "sketch"}
    seen = set()
    for round_ in range(1, 40):
        chosen = sample(domains, rule="one-per-domain", participation=1.0, seed=0, round_=round_)
        assert sorted(domains[client] for client in chosen) == ["photo", "sketch"]
        seen |= set(chosen)
    assert seen == set(domains)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": torch.full((2, 3), torch.nan)}, "context: holds NaN"),
        ({"context": torch.full((2, 3), torch.inf)}, "context: holds NaN or infinity"),
        ({"context": torch.zeros(3, 2)}, r"context: shape \(3, 2\) instead of \(2, 3\)"),
        ({"context": torch.zeros(2, 3).double()}, r"context: dtype torch.float64 instead of torch.float32"),
        ({"context": torch.full((2, 3), 1e6)}, "context: norm 2.449e.06 is above federation.norm-bound = 1000"),
        ({"gate": torch.zeros(1)}, r"tensors .*'gate'.* instead of"),
    ],
)
def test_bad_uploads_are_refused(changes: dict[str, torch.Tensor], words: str) -> None:
    """An upload of the wrong names, shapes, dtypes or values is refused in one line that names the tensor."""
    assert objection(LIKE, LIKE, 1000.0) is None
    refusal = objection(LIKE | changes, LIKE, 1000.0)
    assert refusal is not None
    assert re.match(words, refusal)


def test_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    """State and round are what was saved, and the older checkpoint is replaced whole."""
    state = {"context": torch.randn(2, 3), "pool.client-00": torch.randn(2, 3), "keys": torch.rand(2, 1)}
    save_checkpoint(tmp_path, LIKE, round_=1, run="r")
    save_checkpoint(tmp_path, state, round_=2, run="r")
    loaded, round_ = load_checkpoint(tmp_path, run="r")
    assert round_ == 2
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_checkpoints_that_cannot_be_used(tmp_path: Path) -> None:
    """A missing, damaged or foreign checkpoint is one line that names the file."""
    with pytest.raises(ValueError, match="nothing to resume from"):
        load_checkpoint(tmp_path, run="r")
    save_checkpoint(tmp_path, LIKE, round_=1, run="other")
    with pytest.raises(ValueError, match="belongs to run other, not to r"):
        load_checkpoint(tmp_path, run="r")
    (tmp_path / FILE_NAME).write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(tmp_path, run="r")
