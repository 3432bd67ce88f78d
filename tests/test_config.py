import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from common.methods import METHODS, FullConfig, make_method, parse_config
from common.world import device_of
from deploy.cli import app

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def test_pyproject_states_every_default() -> None:
    """Flower refuses to override a key that pyproject.toml does not state, so it states them all, as they are."""
    from common.config import flatten

    stated = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    assert flatten(stated) == FullConfig().flat()


def test_flat_and_back() -> None:
    """What travels as a flat mapping is the same configuration on the other side."""
    config = parse_config({"method": "coop", "prompt.epochs": 2, "data.views": "fresh", "pfedmoap.lambda": 1})
    assert parse_config(config.flat()) == config


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        ({"promt.lr": 0.1}, ["promt.lr", "did you mean 'prompt.lr'?"]),
        ({"method": "pfedmop"}, ["pfedmop", "did you mean 'pfedmoap'?", "promptfl"]),
        ({"prompt.lr": -1.0}, ["prompt.lr = -1.0", "greater than 0"]),
        ({"prompt.epochs": 2.5}, ["prompt.epochs = 2.5", "integer"]),
        ({"resume": "False"}, ["resume = 'False'", "boolean"]),
        ({"rounds": True}, ["rounds = True", "integer"]),
        ({"partition.kind": "iidd"}, ["partition.kind = 'iidd'", "'iid'"]),
        ({"pfedmoap.experts": 0}, ["pfedmoap.experts = 0", "greater than or equal to 1"]),
        ({"pfedmoap.score-scale": "papr"}, ["pfedmoap.score-scale = 'papr'", "'paper'"]),
        ({"data.views": 0}, ["data.views = 0", "'fresh'"]),
        ({"prompt.warmup-epochs": 5}, ["prompt.warmup-epochs = 5", "prompt.epochs = 5"]),
        ({"zeroshot.template": "a photo"}, ["zeroshot.template", "{class}"]),
        ({"federation.participation": 0.0}, ["federation.participation = 0.0"]),
    ],
)
def test_bad_input_is_one_clear_line(flat: dict[str, bool | int | float | str], words: list[str]) -> None:
    """A bad key or value is named in one line, with what is allowed or the nearest right spelling."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        parse_config(flat)
    for word in words:
        assert word in str(caught.value)


@given(seed=st.integers(0, 2**63 - 1))
def test_every_seed_is_a_seed(seed: int) -> None:
    """Seed 0, like any other, is kept as given."""
    assert parse_config({"seed": seed}).seed == seed


@pytest.mark.parametrize("name", METHODS)
def test_methods_carry_their_name(name: str) -> None:
    """The record of functions knows under which name it is registered."""
    assert make_method(parse_config({"method": name})).name == name


@pytest.mark.parametrize("device", ["cuda:-1", "cuda:x", "cuda:99", "cpu:9", "gpu", ""])
def test_a_device_that_is_not_here(device: str) -> None:
    """Whatever is no device of this machine is refused by one line that says what there is."""
    with pytest.raises(ValueError, match=r"^clip.device = '.*': is not here; there is cpu"):
        device_of(device)
    assert device_of("cpu") == "cpu"


@pytest.mark.parametrize("beside", [["demo"], ["--recipe=demo"], ["--rounds=3"], ["-c", "seed=1"], ["--sites=2"]])
def test_nothing_is_set_beside_resume(beside: list[str]) -> None:
    """A run goes on as it was begun: a setting beside --resume would be lost, so it is refused."""
    result = CliRunner().invoke(app, ["run", "--resume", "runs/nowhere", *beside])
    assert "--resume goes on with the run as it was begun" in str(result.exception)
