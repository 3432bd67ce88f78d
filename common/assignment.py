"""Who holds what: each client's rows of a data set."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

Rows = Int[np.ndarray, "_"]


def no_rows() -> Rows:
    """An empty part."""
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Part:
    """One client's rows of `task.data`, in ascending order."""

    train: Int[np.ndarray, "train"]
    test: Int[np.ndarray, "test"]
    validation: Int[np.ndarray, "validation"] = field(default_factory=no_rows)
    """Kept out of training, to choose a round by."""


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
    unseen: Int[np.ndarray, "unseen"] = field(default_factory=no_rows)
    """All rows of the domain that no client holds, where one is left out."""


def safe_name(name: str) -> str:
    """The name as part of a client's, which begins with a letter or a digit."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower()).lstrip("-") or "domain"


def digest_of(names: Sequence[str], parts: Sequence[Part]) -> str:
    """Hash of who holds which rows."""
    digest = hashlib.sha256()
    for name, part in zip(names, parts, strict=True):
        for rows in (part.train, part.test, *([part.validation] if len(part.validation) else [])):
            digest.update(f"{name} {len(rows)} ".encode() + rows.astype("<i8").tobytes())
    return digest.hexdigest()
