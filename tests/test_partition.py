"""Partitions: disjoint, complete, seed-stable, of the sizes asked for; what cannot be is refused."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from common.assignment import Assignment
from common.data import Task
from common.partition import KINDS, partition
from deploy.data_command import data


def make_task(labels: list[int], domains: list[int], test: list[bool]) -> Task:
    """A task whose images are never opened: there are none."""
    names, domain_names = [f"class {n}" for n in range(max(labels) + 1)], ["openmoji", "Line Art", "3D/flat"]
    features = Features(
        {"image": ImageFeature(), "label": ClassLabel(names=names), "domain": ClassLabel(names=domain_names)}
    )
    columns = {"image": ["missing.png"] * len(labels), "label": labels, "domain": domains}
    rows = Dataset.from_dict(columns, features=features)
    return Task("toy", tuple(names), tuple(domain_names), rows, np.array(test), "drawn", "f" * 64, ())


def regular(classes: int = 6, train: int = 20, test: int = 8) -> Task:
    """As many images of every class in each of three domains."""
    cells = [(domain, label) for domain in range(3) for label in range(classes)]
    held_out = [False] * train + [True] * test
    labels = [label for _, label in cells for _ in held_out]
    domains = [domain for domain, _ in cells for _ in held_out]
    return make_task(labels, domains, held_out * len(cells))


REGULAR = regular()
CLIENTS = {"domain": 3, "domain-dirichlet": 6}


ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.booleans()), min_size=12, max_size=150)
"""Any (label, domain, whether it tests)."""


def holders(task: Task, assignment: Assignment) -> np.ndarray:
    """How many clients hold each image."""
    held = [rows for part in assignment.parts for rows in (part.train, part.test)]
    return np.bincount(np.concatenate(held), minlength=len(task.test))


@settings(max_examples=30, deadline=None)
@given(ROWS, st.sampled_from(KINDS), st.integers(1, 6), st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 10.0]))
def test_disjoint_and_complete(
    rows: list[tuple[int, int, bool]], kind: str, clients: int, seed: int, alpha: float
) -> None:
    """Every training image has one holder, every test image of a held class and domain too, none has two."""
    task = make_task(*(list(column) for column in zip(*rows, strict=True)))
    clients = {"domain": 3, "domain-dirichlet": 3 * clients}.get(kind, clients)
    with pytest.MonkeyPatch.context() as few:
        few.setattr("common.partition.DRAWS", 10)
        try:
            assignment = partition(task, kind, clients, alpha=alpha, seed=seed)
        except ValueError:
            return  # what cannot be is another test's
    held = holders(task, assignment)
    assert held.max() == 1
    assert (held[~task.test] == 1).all()
    cells = list(zip(task.column("domain"), task.column("label"), strict=True))
    trained = {cell for cell, test in zip(cells, task.test, strict=True) if not test}
    assert [bool(held[row]) for row in np.flatnonzero(task.test)] == [
        cells[row] in trained for row in np.flatnonzero(task.test)
    ]
    for part in assignment.parts:
        assert not task.test[part.train].any()
        assert task.test[part.test].all()
        assert len(part.train)
        assert len(part.test)
        assert {cells[row] for row in part.test} <= {cells[row] for row in part.train}
        assert (np.diff(part.train) > 0).all()
        assert (np.diff(part.test) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_assignment(kind: str) -> None:
    """The same seed gives the same rows and digest, whatever was drawn before; another seed other ones."""
    clients = CLIENTS.get(kind, 4)
    first = partition(REGULAR, kind, clients, seed=3)
    np.random.default_rng().random(100)
    again = partition(REGULAR, kind, clients, seed=3)
    assert first.digest == again.digest
    assert all((a.train == b.train).all() for a, b in zip(first.parts, again.parts, strict=True))
    assert (partition(REGULAR, kind, clients, seed=4).digest == first.digest) == (kind == "domain")


@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_options_alone(kind: str) -> None:
    """A data set with other images and another name, but the same labels and split, is dealt the same."""
    other = replace(REGULAR, name="other", fingerprint="0" * 64, split="official")
    clients = CLIENTS.get(kind, 4)
    assert partition(REGULAR, kind, clients).digest == partition(other, kind, clients).digest


@pytest.mark.parametrize("kind", ["dirichlet", "domain-dirichlet"])
def test_dirichlet_is_uneven_as_asked(kind: str) -> None:
    """A small alpha gives clients few classes, a large one nearly the same share of all."""
    labels = REGULAR.column("label")

    def largest_share(alpha: float) -> float:
        parts = partition(REGULAR, kind, 6, alpha=alpha).parts
        return float(np.mean([np.bincount(labels[p.train]).max() / len(p.train) for p in parts]))

    assert largest_share(0.1) > 0.4
    assert largest_share(1000.0) < 0.25


def test_iid_sizes() -> None:
    """Sizes by iid are equal, but for one image."""
    sizes = [len(part.train) for part in partition(REGULAR, "iid", 7).parts]
    assert sum(sizes) == 360
    assert max(sizes) - min(sizes) <= 1


def test_power_sizes() -> None:
    """Sizes follow rank^alpha, the last client holding most."""
    sizes = [len(part.train) for part in partition(REGULAR, "power", 5, alpha=2.0).parts]
    wanted = np.arange(1, 6) ** 2 / 55 * 360
    assert np.abs(np.array(sizes) - wanted).max() < 5
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("clients", [1, 2, 4, 5, 6])
def test_pathological_classes(clients: int) -> None:
    """Classes are disjoint, evenly dealt in a drawn order, and the last client takes the rest."""
    labels = REGULAR.column("label")
    parts = partition(REGULAR, "pathological", clients, seed=2).parts
    held = [set(labels[part.train]) for part in parts]
    each = 6 // clients
    assert [len(own) for own in held] == [each] * (clients - 1) + [6 - each * (clients - 1)]
    assert sum(len(own) for own in held) == len(set.union(*held)) == 6
    assert [set(labels[part.test]) for part in parts] == held


def test_domains() -> None:
    """Both kinds by domain give clients images of one domain, and names that say which."""
    domains = REGULAR.column("domain")
    for kind, clients in CLIENTS.items():
        assignment = partition(REGULAR, kind, clients, seed=1)
        for part, domain in zip(assignment.parts, assignment.domains, strict=True):
            assert set(domains[part.train]) == set(domains[part.test]) == {domain}
    assert partition(REGULAR, "domain", 3).names == ("openmoji", "line-art", "3d-flat")
    assert partition(REGULAR, "domain-dirichlet", 6).names[2:4] == ("line-art-00", "line-art-01")
    hidden = replace(REGULAR, domain_names=("_openmoji", "Line Art", "3D/flat"))
    assert partition(hidden, "domain", 3).names == ("openmoji", "line-art", "3d-flat")
    assert set(partition(REGULAR, "iid", 3).domains) == {None}
    assert partition(REGULAR, "iid", 3).names == ("client-00", "client-01", "client-02")


@pytest.mark.parametrize("kind", KINDS)
def test_train_and_test_follow_one_distribution(kind: str) -> None:
    """A client has the same share of the test images of a class and domain as of the training images."""
    cells = REGULAR.column("domain") * 6 + REGULAR.column("label")
    for part in partition(REGULAR, kind, CLIENTS.get(kind, 4), seed=5).parts:
        train, test = (np.bincount(cells[rows], minlength=18) for rows in (part.train, part.test))
        assert np.abs(train * 8 / 20 - test).max() <= 1 + 1e-9
        assert abs(train.sum() * 8 / 20 - test.sum()) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_shots(kind: str) -> None:
    """With `shots`, so many training images of every class and domain are dealt, drawn by the seed."""
    clients = CLIENTS.get(kind, 4)
    assignment = partition(REGULAR, kind, clients, shots=5, seed=7)
    train = np.concatenate([part.train for part in assignment.parts])
    cells = REGULAR.column("domain") * 6 + REGULAR.column("label")
    assert np.bincount(cells[train]).tolist() == [5] * 18
    assert sum(len(part.test) for part in assignment.parts) == REGULAR.test.sum()
    other = partition(REGULAR, kind, clients, shots=5, seed=8)
    assert set(train) != {row for part in other.parts for row in part.train}


def test_minimum_size() -> None:
    """Dirichlet draws again, silently, until every client has the images that are asked for."""
    for kind in ("dirichlet", "domain-dirichlet"):
        parts = partition(REGULAR, kind, 9, alpha=0.3, minimum=20).parts
        assert min(len(part.train) for part in parts) >= 20


@pytest.mark.parametrize(
    ("kind", "clients", "options", "message"),
    [
        ("dirichlett", 2, {}, "unknown partition 'dirichlett', did you mean 'dirichlet'"),
        ("iid", 0, {}, "partition.clients = 0: must be at least 1"),
        ("iid", 361, {}, "toy has only 360 training images"),
        ("pathological", 7, {}, "toy has only 6 classes"),
        ("domain", 4, {}, "needs one client for each of the 3 domains of toy"),
        ("domain-dirichlet", 4, {}, "needs a multiple of the 3 domains of toy"),
        ("dirichlet", 2, {"alpha": 0.0}, "partition.alpha = 0.0: must be"),
        ("dirichlet", 2, {"alpha": float("nan")}, "partition.alpha = nan: must be"),
        ("iid", 2, {"shots": -1}, "data.shots = -1: must be"),
        ("iid", 200, {}, "client .* has no test image"),
        ("dirichlet", 20, {"alpha": 0.01, "minimum": 12}, "training images, 12 needed in 5 draws"),
        (
            "domain-dirichlet",
            60,
            {"alpha": 0.01},
            "dirichlet partition of domain 'openmoji' of toy .120 training",
        ),
    ],
)
def test_what_cannot_be(
    kind: str, clients: int, options: dict[str, float], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no assignment can serve is refused in one line that says what was asked and what there is."""
    monkeypatch.setattr("common.partition.DRAWS", 5)
    with pytest.raises(ValueError, match=message) as caught:
        partition(REGULAR, kind, clients, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_unseen_domain(kind: str) -> None:
    """No client holds an image of the domain that is left out, and the assignment lists all of them."""
    clients = {"domain": 2, "domain-dirichlet": 4}.get(kind, 3)
    assignment = partition(REGULAR, kind, clients, unseen="Line Art", seed=1)
    held = holders(REGULAR, assignment)
    assert (held == (REGULAR.column("domain") != 1)).all()
    assert assignment.unseen.tolist() == np.flatnonzero(REGULAR.column("domain") == 1).tolist()
    if kind == "domain-dirichlet":
        assert assignment.domains == (0, 0, 2, 2)
        assert assignment.names == ("openmoji-00", "openmoji-01", "3d-flat-00", "3d-flat-01")


def test_domains_that_are_not_there() -> None:
    """A partition by domain of a data set without domains, or with one nobody can train on, is refused."""
    flat = replace(REGULAR, domain_names=(), data=REGULAR.data.remove_columns("domain"))
    with pytest.raises(ValueError, match="toy has no domains"):
        partition(flat, "domain", 3)
    with pytest.raises(ValueError, match=r"unseen = 'Line': domains of toy: openmoji, Line Art, 3D/flat"):
        partition(REGULAR, "domain", 2, unseen="Line")
    untrained = replace(REGULAR, test=REGULAR.test | (REGULAR.column("domain") == 1))
    with pytest.raises(ValueError, match="domain 'Line Art' of toy has no training image"):
        partition(untrained, "domain", 3)


def test_data_command(tmp_path: Path) -> None:
    """The command prints who holds what of a folder and draws it; what cannot be raises one line."""
    for label, name in enumerate(("bike", "mug")):
        for number in range(10):
            path = tmp_path / "d" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (label, number, 9)).save(path)
    app = typer.Typer()
    app.command()(data)
    figure = tmp_path / "who.png"
    options = ["--clients", "2", "--partition", "pathological", "--figure", str(figure)]
    result = CliRunner().invoke(app, [str(tmp_path / "d"), *options], env={"HOME": str(tmp_path)})
    assert result.exit_code == 0, result.output
    assert "20 images, 2 classes" in result.output
    assert all(client in result.output for client in ("client-00", "client-01"))
    assert {"bike 7", "mug 7"} == set(re.findall(r"(?:bike|mug) \d+", result.output))
    with Image.open(figure) as drawn:
        assert drawn.size[0] > 100
    refused = ["--clients", "3", "--partition", "pathological"]
    result = CliRunner().invoke(app, [str(tmp_path / "d"), *refused], env={"HOME": str(tmp_path)})
    assert isinstance(result.exception, ValueError)
    assert "has only 2 classes" in str(result.exception)


def test_hundred_clients_of_cifar() -> None:
    """A hundred clients by Dirichlet(0.5) over 50,000 images of 100 classes take seconds, not minutes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 100, 60_000).tolist()
    task = make_task(labels, [0] * 60_000, [row >= 50_000 for row in range(60_000)])
    parts = partition(replace(task, domain_names=()), "dirichlet", 100, alpha=0.5).parts
    assert sum(len(part.train) for part in parts) == 50_000
    assert sum(len(part.test) for part in parts) == 10_000
