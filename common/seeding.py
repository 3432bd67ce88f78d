"""Random generators that depend on what they are for, never on what ran before."""

import hashlib
import json

import torch


def generator(seed: int, *scope: str | int) -> torch.Generator:
    """A CPU generator for one purpose, such as `generator(0, "batches", "hospital-a", 3)`.

    The same seed and scope give the same stream in every process and on every machine, whatever was drawn
    before; any other seed or scope gives an unrelated one. Seed 0 is a seed like any other.
    """
    digest = hashlib.sha256(json.dumps([seed, *scope]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
