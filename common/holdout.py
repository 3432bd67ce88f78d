"""What is kept out of training: a part of every client's images to choose a round by, and an unseen domain."""

from dataclasses import replace

import numpy as np

from common.assignment import Assignment, Part, Rows, digest_of, no_rows, safe_name
from common.data import Task, draw_groups


def with_validation(assignment: Assignment, task: Task, share: float, seed: int) -> Assignment:
    """The assignment with `share` of all images moved from training into validation parts.

    Which images, of every class in every domain, is drawn with `seed` and the same for every partition. Images of
    one name are on the same side, whatever their domain, so that none is trained on in another style.

    Raises:
        ValueError: there would be nothing to train on, or a client would have nothing; names it.
    """
    apart = _validation_rows(task, share, seed)
    parts = []
    for name, part in zip(assignment.names, assignment.parts, strict=True):
        out = np.isin(part.train, apart)
        if len(out) and out.all():
            raise ValueError(f"data.validation-share = {share:g}: leaves {name} no training image of its {len(out)}")
        parts.append(Part(part.train[~out], part.test, part.train[out]))
    return replace(assignment, parts=tuple(parts), digest=digest_of(assignment.names, parts))


def _validation_rows(task: Task, share: float, seed: int) -> Rows:
    train = np.flatnonzero(~task.test)
    of_train = share * len(task.test) / max(1, len(train))
    if of_train >= 1:
        raise ValueError(
            f"data.validation-share = {share:g}: leaves nothing to train on, with {task.test.mean():.0%} of "
            f"{task.name} for testing"
        )
    data = task.data.select(train)
    groups = np.arange(len(train))
    if "name" in data.column_names:
        _, first, inverse = np.unique(data["name"][:], return_index=True, return_inverse=True)
        groups = first[inverse]
    apart: Rows = train[draw_groups(data, groups, of_train, seed)]
    return apart


def with_unseen(assignment: Assignment, task: Task, domain: str) -> Assignment:
    """The assignment with one more client, the last, which only tests, on the domain that no other holds.

    It tests on all of the domain's images, but those whose name one of the others' training images has: an
    emoji that was trained on is not unseen in another style.

    Raises:
        ValueError: there is no such image.
    """
    rows = assignment.unseen
    if "name" in task.data.column_names:
        names = np.asarray(task.data["name"][:])
        trained = np.concatenate([part.train for part in assignment.parts])
        rows = rows[~np.isin(names[rows], names[trained])]
    if not len(rows):
        raise ValueError(f"partition.unseen = {domain!r}: the names of all its images are trained on elsewhere")
    clients = (*assignment.names, f"unseen-{safe_name(domain)}")
    parts = (*assignment.parts, Part(no_rows(), rows))
    domains = (*assignment.domains, task.domain_names.index(domain))
    return replace(assignment, names=clients, parts=parts, domains=domains, digest=digest_of(clients, parts))
