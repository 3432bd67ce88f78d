"""Who holds what in a simulated federation: thin over the partitioners of flwr_datasets.

The assignment depends on the seed, the labels and the options alone, and is the same in every process. No
image is opened for it.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IdToSizeFncPartitioner,
    IidPartitioner,
    Partitioner,
)
from jaxtyping import Int

from common.config import nearest
from common.data import Task, few_shots

KINDS = ("iid", "pathological", "dirichlet", "domain", "domain-dirichlet", "power")
DRAWS = 100

Rows = Int[np.ndarray, "_"]


@dataclass(frozen=True)
class Part:
    """One client's rows of `task.data`, in ascending order."""

    train: Int[np.ndarray, "train"]
    test: Int[np.ndarray, "test"]


@dataclass(frozen=True)
class Assignment:
    """Who holds what."""

    parts: tuple[Part, ...]
    digest: str
    """Hash of who holds which rows: for the record."""
    names: tuple[str, ...]
    """The clients' stable names: unique, and safe as names of files."""
    domains: tuple[int | None, ...]
    """The domain of a client whose images are all of one, by the rule of the partition; else None."""


@dataclass(frozen=True)
class _Pool:
    """What a partitioner may know: the rows to deal, with their labels and domains."""

    rows: Rows
    labels: Rows
    domains: Rows

    def where(self, chosen: np.ndarray) -> "_Pool":
        return _Pool(self.rows[chosen], self.labels[chosen], self.domains[chosen])


def partition(
    task: Task,
    kind: str,
    clients: int,
    *,
    alpha: float = 0.5,
    seed: int = 0,
    shots: int = 0,
    minimum: int = 1,
) -> Assignment:
    """The rows of every client, dealt by a rule.

    - `iid`: a random share of equal size;
    - `pathological`: disjoint classes, dealt evenly; the last client takes the rest;
    - `dirichlet`: of every class, shares drawn from Dirichlet(`alpha`);
    - `domain`: a domain a client;
    - `domain-dirichlet`: inside each domain as many clients, by `dirichlet`;
    - `power`: random shares whose sizes follow the power law rank^`alpha`, the last client holding most.

    The training rows are dealt first: with `shots`, at most so many of every class in every domain, drawn
    with `seed`. Then the test rows of every class in every domain go to those who hold training rows of it,
    in proportion to how many they hold; what rounding leaves is carried from one class to the next. A draw in
    which a client has fewer than `minimum` training images, or no test image, is drawn again.

    Raises:
        ValueError: unknown kind; a number of clients that the kind cannot serve; alpha or shots out of range;
            a client without images in every draw; names what was asked and what is there.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown partition {kind!r}{nearest(kind, list(KINDS))}; known: {', '.join(KINDS)}")
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"partition.alpha = {alpha}: must be a number greater than 0")
    if shots < 0:
        raise ValueError(f"data.shots = {shots}: must be 0 (all) or more")
    labels, domains = task.column("label"), task.column("domain")
    train = few_shots(task, shots, seed) if shots else np.flatnonzero(~task.test)
    test = np.flatnonzero(task.test)
    pool = _Pool(train, labels[train], domains[train])
    held_out = _Pool(test, labels[test], domains[test])
    _check(task, kind, clients, pool)
    if kind == "domain-dirichlet":
        each = clients // len(task.domain_names)
        parts = tuple(
            part
            for domain, name in enumerate(task.domain_names)
            for part in _parts(
                pool.where(pool.domains == domain),
                held_out.where(held_out.domains == domain),
                ("dirichlet", each, alpha, minimum),
                [seed, domain],
                f"domain {name!r} of {task.name}",
            )
        )
    else:
        parts = _parts(pool, held_out, (kind, clients, alpha, minimum), [seed], task.name)
    names = _names(task, kind, clients)
    return Assignment(parts, _digest(names, parts), names, _domains(task, kind, clients))


def _parts(
    pool: _Pool, held_out: _Pool, asked: tuple[str, int, float, int], seed: Sequence[int], where: str
) -> tuple[Part, ...]:
    """Parts in which every client has what it needs, by the first draw that gives it."""
    kind, clients, alpha, minimum = asked
    draws = DRAWS if kind == "dirichlet" else 1
    fault = ""
    for draw in range(draws):
        parts = _with_tests(pool, held_out, _deal(pool, kind, clients, alpha, [*seed, draw]))
        fault = _shortage(parts, minimum)
        if not fault:
            return parts
    advice = f" in {draws} draws; fewer clients or a larger partition.alpha would help" if draws > 1 else ""
    raise ValueError(
        f"{kind} partition of {where} ({len(pool.rows)} training and {len(held_out.rows)} test images) among "
        f"{clients} clients: {fault}{advice}"
    )


def _check(task: Task, kind: str, clients: int, pool: _Pool) -> None:
    """Refuses what no draw could serve."""
    domains = len(task.domain_names)
    classes = len(np.unique(pool.labels))
    if clients < 1:
        raise ValueError(f"partition.clients = {clients}: must be at least 1")
    if clients > len(pool.rows):
        raise ValueError(
            f"partition.clients = {clients}: {task.name} has only {len(pool.rows)} training images"
        )
    if kind == "pathological" and clients > classes:
        raise ValueError(
            f"partition.clients = {clients}: {task.name} has only {classes} classes, and pathological gives "
            "every client classes of its own"
        )
    if kind.startswith("domain") and not domains:
        raise ValueError(f"partition.kind = {kind!r}: {task.name} has no domains")
    if kind == "domain" and clients != domains:
        raise ValueError(
            f"partition.clients = {clients}: domain needs one client for each of the {domains} domains of "
            f"{task.name}"
        )
    if kind == "domain-dirichlet" and clients % domains:
        raise ValueError(
            f"partition.clients = {clients}: domain-dirichlet needs a multiple of the {domains} domains of "
            f"{task.name}"
        )
    present = np.unique(pool.domains)
    if kind.startswith("domain") and len(present) < domains:
        empty = next(name for domain, name in enumerate(task.domain_names) if domain not in present)
        raise ValueError(f"partition.kind = {kind!r}: domain {empty!r} of {task.name} has no training image")


def _deal(pool: _Pool, kind: str, clients: int, alpha: float, seed: Sequence[int]) -> list[Rows]:
    """Every client's training rows."""
    order = np.random.default_rng(seed).permutation(len(pool.rows))
    pool = pool.where(order)
    if kind == "iid":
        return _through(IidPartitioner(clients), pool)
    if kind == "power":
        return _through(IdToSizeFncPartitioner(clients, lambda rank: rank**alpha), pool)
    if kind == "pathological":
        return _disjoint(pool, clients, seed)
    if kind == "dirichlet":
        return _dirichlet(pool, clients, alpha, seed)
    # NaturalIdPartitioner does this one too, behind a progress bar
    return [pool.rows[pool.domains == domain] for domain in np.unique(pool.domains)]


def _dirichlet(pool: _Pool, clients: int, alpha: float, seed: Sequence[int]) -> list[Rows]:
    """By DirichletPartitioner, without balancing and without its own, noisy, ten tries for a minimum size."""
    drawn = int(np.random.SeedSequence(seed).generate_state(1)[0])
    dirichlet = DirichletPartitioner(
        clients, "label", alpha, min_partition_size=0, self_balancing=False, shuffle=False, seed=drawn
    )
    return _through(dirichlet, pool)


def _disjoint(pool: _Pool, clients: int, seed: Sequence[int]) -> list[Rows]:
    """Classes in an order drawn with the seed, dealt evenly; the last client takes the rest."""
    classes = np.random.default_rng(seed).permutation(np.unique(pool.labels))
    each = len(classes) // clients
    cuts = np.split(classes, [each * (client + 1) for client in range(clients - 1)])
    return [pool.rows[np.isin(pool.labels, own)] for own in cuts]


def _through(partitioner: Partitioner, pool: _Pool) -> list[Rows]:
    """The rows that a partitioner of flwr_datasets gives each client; it sees labels, never images."""
    partitioner.dataset = Dataset.from_dict({"label": pool.labels, "row": pool.rows})
    return [
        np.asarray(partitioner.load_partition(client)["row"][:], dtype=np.int64)
        for client in range(partitioner.num_partitions)
    ]


def _with_tests(pool: _Pool, held_out: _Pool, dealt: Sequence[Rows]) -> tuple[Part, ...]:
    """Every client's part: its training rows, and test rows of the same classes and domains in proportion."""
    owner = np.full(int(pool.rows.max()) + 1, -1)
    for client, rows in enumerate(dealt):
        owner[rows] = client
    owners = owner[pool.rows]
    tests: list[list[Rows]] = [[] for _ in dealt]
    owed = np.zeros(len(dealt))
    strata = np.unique(np.stack([held_out.domains, held_out.labels]), axis=1).T
    for domain, label in strata:
        rows = held_out.rows[(held_out.domains == domain) & (held_out.labels == label)]
        here = (pool.domains == domain) & (pool.labels == label)
        held = np.bincount(owners[here], minlength=len(dealt))
        if not held.any():
            continue
        fair = held / held.sum() * len(rows)
        counts = _rounded(fair, owed, held > 0)
        owed += fair - counts
        for client, own in enumerate(np.split(rows, np.cumsum(counts)[:-1])):
            tests[client].append(own)
    return tuple(
        Part(np.sort(rows), np.sort(np.concatenate(own)) if own else np.zeros(0, dtype=np.int64))
        for rows, own in zip(dealt, tests, strict=True)
    )


def _rounded(fair: np.ndarray, owed: np.ndarray, holds: np.ndarray) -> np.ndarray:
    """Whole numbers near `fair` with its sum; what is over goes to the holders who are owed most."""
    counts = np.floor(fair + 1e-9).astype(np.int64)
    due = np.where(holds, owed + fair - counts, -np.inf)
    for _ in range(round(float(fair.sum())) - int(counts.sum())):
        client = int(np.argmax(due))
        counts[client] += 1
        due[client] -= 1
    return counts


def _shortage(parts: Sequence[Part], minimum: int) -> str:
    """What a client lacks, or an empty string."""
    for client, part in enumerate(parts):
        if len(part.train) < minimum:
            return f"client {client} has {len(part.train)} training images, {minimum} needed"
        if not len(part.test):
            return f"client {client} has no test image"
    return ""


def _names(task: Task, kind: str, clients: int) -> tuple[str, ...]:
    if kind.startswith("domain"):
        each = clients // len(task.domain_names)
        safe = [_safe(name) for name in task.domain_names]
        if len(set(safe)) == len(safe):
            return tuple(
                name if kind == "domain" else f"{name}-{client:0{_digits(each)}}"
                for name in safe
                for client in range(each)
            )
    return tuple(f"client-{client:0{_digits(clients)}}" for client in range(clients))


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name.lower())


def _digits(count: int) -> int:
    return max(2, len(str(count - 1)))


def _domains(task: Task, kind: str, clients: int) -> tuple[int | None, ...]:
    if not kind.startswith("domain"):
        return (None,) * clients
    each = clients // len(task.domain_names)
    return tuple(client // each for client in range(clients))


def _digest(names: Sequence[str], parts: Sequence[Part]) -> str:
    digest = hashlib.sha256()
    for name, part in zip(names, parts, strict=True):
        for rows in (part.train, part.test):
            digest.update(f"{name} {len(rows)} ".encode() + rows.astype("<i8").tobytes())
    return digest.hexdigest()
