"""Who holds what in a simulated federation: thin over the partitioners of flwr_datasets.

The assignment depends on the seed, the labels and the options alone, and is the same in every process. No
image is opened for it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IdToSizeFncPartitioner,
    IidPartitioner,
    Partitioner,
)

from common.assignment import Assignment, Part, Rows, digest_of, safe_name
from common.config import nearest
from common.data import Task, few_shots

KINDS = ("iid", "pathological", "dirichlet", "domain", "domain-dirichlet", "power")
DRAWS = 100


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
    unseen: str = "",
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
    which a client has fewer than `minimum` training images, or no test image, is drawn again. The domain
    `unseen` is left out: no client holds any of it.

    Raises:
        ValueError: unknown kind or domain; a number of clients that the kind cannot serve; alpha or shots out
            of range; a client without images in every draw; names what was asked and what is there.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown partition {kind!r}{nearest(kind, list(KINDS))}; known: {', '.join(KINDS)}")
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"partition.alpha = {alpha}: must be a number greater than 0")
    if shots < 0:
        raise ValueError(f"data.shots = {shots}: must be 0 (all) or more")
    if unseen and unseen not in task.domain_names:
        hint = nearest(unseen, list(task.domain_names))
        there = ", ".join(task.domain_names) or "none"
        raise ValueError(f"partition.unseen = {unseen!r}: domains of {task.name}: {there}{hint}")
    labels, domains = task.column("label"), task.column("domain")
    left_out = domains == (task.domain_names.index(unseen) if unseen else -1)
    train = few_shots(task, shots, seed) if shots else np.flatnonzero(~task.test)
    train, test = train[~left_out[train]], np.flatnonzero(task.test & ~left_out)
    pool = _Pool(train, labels[train], domains[train])
    held_out = _Pool(test, labels[test], domains[test])
    dealt = {domain: name for domain, name in enumerate(task.domain_names) if name != unseen}
    _check(task.name, kind, clients, pool, dealt)
    if kind == "domain-dirichlet":
        parts = tuple(
            part
            for domain, name in dealt.items()
            for part in _parts(
                pool.where(pool.domains == domain),
                held_out.where(held_out.domains == domain),
                ("dirichlet", clients // len(dealt), alpha, minimum),
                [seed, domain],
                f"domain {name!r} of {task.name}",
            )
        )
    else:
        parts = _parts(pool, held_out, (kind, clients, alpha, minimum), [seed], task.name)
    by_domain = kind.startswith("domain")
    names = _names(list(dealt.values()) if by_domain else [], clients)
    of = tuple(list(dealt)[client * len(dealt) // clients] if by_domain else None for client in range(clients))
    return Assignment(parts, digest_of(names, parts), names, of, np.flatnonzero(left_out))


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


def _check(task: str, kind: str, clients: int, pool: _Pool, domains: Mapping[int, str]) -> None:
    """Refuses what no draw could serve."""
    classes = len(np.unique(pool.labels))
    fault = ""
    if clients < 1:
        fault = "must be at least 1"
    elif clients > len(pool.rows):
        fault = f"{task} has only {len(pool.rows)} training images to deal"
    elif kind == "pathological" and clients > classes:
        fault = f"{task} has only {classes} classes, and pathological gives every client its own"
    elif kind.startswith("domain") and not domains:
        fault = f"{task} has no domains for partition.kind = {kind!r}"
    elif kind == "domain" and clients != len(domains):
        fault = f"domain needs one client for each of the {len(domains)} domains of {task}"
    elif kind == "domain-dirichlet" and clients % len(domains):
        fault = f"domain-dirichlet needs a multiple of the {len(domains)} domains of {task}"
    elif kind.startswith("domain"):
        empty = [name for domain, name in domains.items() if domain not in pool.domains]
        fault = f"domain {empty[0]!r} of {task} has no training image" if empty else ""
    if fault:
        raise ValueError(f"partition.clients = {clients}: {fault}")


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


def _names(domains: Sequence[str], clients: int) -> tuple[str, ...]:
    """Stable names, by domain where clients are dealt by domain and the domains' names allow it."""
    safe = [safe_name(name) for name in domains]
    if len(safe) == clients and len(set(safe)) == clients:
        return tuple(safe)
    stems = safe if safe and len(set(safe)) == len(safe) else ["client"]
    each = clients // len(stems)
    width = max(2, len(str(each - 1)))
    return tuple(f"{stem}-{client:0{width}}" for stem in stems for client in range(each))
