"""Task: a data set by name, folder or file; class names in a fixed order, images, and which of them test."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from jaxtyping import Bool, Int

from common.images import Survey, survey
from common.listing import Listing, holds_table, read_folder, under_classes, with_labels
from common.sources import find

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A classification data set, its images opened only when they are asked for."""

    name: str
    class_names: tuple[str, ...]
    """In the fixed order of the data set's own labels."""
    domain_names: tuple[str, ...]
    """Empty where there are none."""
    data: Dataset
    """Columns image, label (ClassLabel) and, where there are, domain (ClassLabel) and name."""
    test: Bool[np.ndarray, "images"]
    """True where the image belongs to the test part."""
    split: str
    """Where the division into train and test comes from."""
    fingerprint: str
    """Digest of the images' bytes, labels, order and split: the same on every machine."""
    notes: tuple[str, ...]
    """What was left out, and why: for the record."""
    content: str = ""
    """Digest of the images' bytes in order alone: the same whatever the split."""

    def column(self, name: str) -> Int[np.ndarray, "images"]:
        """The integers of the column `label` or `domain`; zeros for `domain` where there are no domains."""
        return column(self.data, name)


def column(data: Dataset, name: str) -> Int[np.ndarray, "images"]:
    """The integers of a column; zeros where there is no such column."""
    if name not in data.column_names:
        return np.zeros(len(data), dtype=np.int64)
    return np.asarray(data.with_format("numpy")[name][:], dtype=np.int64)


def load_task(
    name: str,
    *,
    root: str = "",
    seed: int = 0,
    test_share: float = 0.3,
    shots: int = 0,
    broken_share: float = 0.01,
    cache: str = "",
) -> Task:
    """The data set of that name, checked, without duplicates and divided into train and test.

    `name` is `demo`, a known data set, `hf:NAME` on the Hugging Face hub, a folder, a parquet or an Arrow
    file. A known one is looked for under `root` in its authors' layout, then on the hub. A test part that
    comes with the data set is kept. Otherwise `test_share` of every class (in every domain) is drawn with
    `seed`: of the images, after exact duplicates were removed; or, where images have a `name`, of the names,
    so that images of one name, and identical ones, are on the same side. `shots` keeps so many training
    images of every class (in every domain).

    Raises:
        ValueError: unknown data set, or one that is neither here nor on the hub; no images or no labels; more
            than `broken_share` of the images unreadable; an option out of range.
    """
    task = _checked(name, find(name, root), (seed, test_share, broken_share), cache)
    if not shots:
        return task
    kept = np.sort(np.concatenate([few_shots(task, shots, seed), np.flatnonzero(task.test)]))
    note = f"{shots} training images of every class kept, drawn with seed {seed}"
    return replace(
        task,
        data=task.data.select(kept),
        test=task.test[kept],
        fingerprint=json_digest([task.fingerprint, kept.tolist()]),
        content=json_digest([task.content, kept.tolist()]),
        notes=(*task.notes, note),
    )


def load_site(
    name: str,
    class_names: Sequence[str] = (),
    *,
    domain: str = "",
    test_share: float = 0.3,
    seed: int = 0,
    broken_share: float = 0.01,
    cache: str = "",
) -> Task:
    """One site's own images, a folder per class or any other data set, under the class names of the federation.

    A site may lack classes. With `domain`, all of its images are of that domain. Without `class_names` the
    classes are its own.

    Raises:
        ValueError: a folder or a label that is no class (with the nearest one); no images; domains inside a
            folder; too many unreadable images.
    """
    path = Path(name).expanduser()
    if path.is_dir() and not holds_table(path):
        found = read_folder(path, class_names)
        if "domain" in found.data.column_names:
            names = ", ".join(found.data.features["domain"].names)
            raise ValueError(f"{name}: a site holds a folder per class, not domains ({names})")
    else:
        found = under_classes(find(name), class_names, name)
    if domain:
        found = replace(found, data=with_labels(found.data, "domain", [0] * len(found.data), [domain]))
    return _checked(path.name, found, (seed, test_share, broken_share), cache)


def few_shots(task: Task, shots: int, seed: int) -> Int[np.ndarray, "rows"]:
    """Rows of at most `shots` training images of every class in every domain, sorted; drawn with `seed`."""
    train = np.flatnonzero(~task.test)
    strata = _strata(task.data)[train]
    chosen = [_order(train[strata == stratum], seed, stratum)[:shots] for stratum in np.unique(strata).tolist()]
    return np.sort(np.concatenate(chosen)) if chosen else train


def _checked(name: str, found: Listing, options: tuple[int, float, float], cache: str) -> Task:
    """The task of these images by (seed, test share, broken share): looked at, without copies, divided."""
    seed, test_share, broken_share = options
    if not 0 < test_share < 1:
        raise ValueError(f"data.test-share = {test_share}: must be between 0 and 1")
    seen = survey(found.data, cache=cache)
    keep, notes = _readable(name, found.data, seen, broken_share)
    named = "name" in found.data.column_names
    first: dict[str, int] = {}
    for row in keep:
        first.setdefault(seen.digests[row], row)
    copies = len(keep) - len(first)
    if found.test is not None:
        leaked = {seen.digests[row] for row in keep if found.test[row]}
        leaked &= {seen.digests[row] for row in keep if not found.test[row]}
        notes += [f"{len(leaked)} images are in both parts of the split"] if leaked else []
    elif copies and not named:
        groups = sum(count > 1 for count in Counter(seen.digests[row] for row in keep).values())
        keep = list(first.values())
        notes.append(f"removed {copies} exact duplicates ({groups} groups)")
    data = found.data if len(keep) == len(found.data) else found.data.select(keep)
    digests = [seen.digests[row] for row in keep]
    if found.test is not None:
        test, split = found.test[keep], found.split
    else:
        groups_of = _joined(list(data["name"][:]), digests) if named else np.arange(len(data))
        test = draw_groups(data, groups_of, test_share, seed)
        what = ("the names in " if named else "") + "every class"
        where = " in every domain" if "domain" in data.column_names and not named else ""
        split = f"{100 * test_share:g} % of {what}{where}, drawn with seed {seed}"
    class_names = tuple(data.features["label"].names)
    domain_names = tuple(data.features["domain"].names) if "domain" in data.column_names else ()
    labels, domains = column(data, "label").tolist(), column(data, "domain").tolist()
    content = json_digest(digests)
    fingerprint = json_digest([class_names, domain_names, split, content, labels, domains, test.tolist()])
    return Task(name, class_names, domain_names, data, test, split, fingerprint, tuple(notes), content)


def json_digest(value: object) -> str:
    """Hash of anything that JSON can say."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _readable(name: str, data: Dataset, seen: Survey, broken_share: float) -> tuple[list[int], list[str]]:
    """Rows of images that can be read, and a note on the others, each of which is logged with its path."""
    if not seen.faults:
        return list(range(len(data))), []
    raw = data.cast_column("image", ImageFeature(decode=False))
    for row, fault in seen.faults.items():
        log.warning("skipped unreadable image %s: %s", _where(raw, row), fault)
    share = len(seen.faults) / len(data)
    if share > broken_share:
        row, fault = next(iter(seen.faults.items()))
        raise ValueError(
            f"{name}: {len(seen.faults)} of {len(data)} images cannot be read ({share:.1%}, more than "
            f"data.broken-share = {broken_share}), such as {_where(raw, row)}: {fault}"
        )
    readable = [row for row in range(len(data)) if row not in seen.faults]
    return readable, [f"skipped {len(seen.faults)} unreadable images"]


def _where(raw: Dataset, row: int) -> str:
    return raw[row]["image"]["path"] or f"row {row}"


def _strata(data: Dataset) -> Int[np.ndarray, "images"]:
    """One integer for every (domain, class)."""
    classes = len(data.features["label"].names)
    return np.ravel(column(data, "domain") * classes + column(data, "label"))


def _joined(names: list[str], digests: list[str]) -> Int[np.ndarray, "images"]:
    """A group for every image: the first row with its name or with an identical image, however indirectly."""
    parent = list(range(len(names)))

    def top(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[tuple[str, str], int] = {}
    for row, keys in enumerate(zip(names, digests, strict=True)):
        for key in (("name", keys[0]), ("digest", keys[1])):
            one, other = top(row), top(first.setdefault(key, row))
            parent[max(one, other)] = min(one, other)
    return np.array([top(row) for row in range(len(names))], dtype=np.int64)


def draw_groups(
    data: Dataset, groups: Int[np.ndarray, "images"], share: float, seed: int
) -> Bool[np.ndarray, "images"]:
    """True for the images of the drawn groups: of every stratum at least one and not all, if it has two."""
    heads = np.unique(groups)
    strata = _strata(data)[heads]
    drawn: list[np.ndarray] = []
    for stratum in np.unique(strata).tolist():
        order = _order(heads[strata == stratum], seed, stratum)
        drawn.append(order[: min(max(1, round(share * len(order))), len(order) - 1)])
    return np.isin(groups, np.concatenate(drawn))


def _order(rows: Int[np.ndarray, "rows"], seed: int, stratum: int) -> Int[np.ndarray, "rows"]:
    """The rows in an order that depends on their number, the seed and the stratum alone."""
    return rows[np.random.default_rng([seed, stratum]).permutation(len(rows))]
