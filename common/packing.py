"""Where the tokens of many texts lie: what all share once, the rest packed into bins without padding.

Dimensions: T texts, L positions, H head tokens (what stands before any context), N rows of one bin.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

SMALLEST_BIN, LARGEST_BIN = 48, 256
LINEAR_COST = 800  # of a row outside attention, in columns looked at: measured with ViT-B/16 on one CPU thread


@dataclass(frozen=True)
class Packing:
    """Rows of all texts in bins of one size; a text lies whole in one bin and ends with its pooled token.

    `text` and `offset` say which row of which text lies where (-1: nothing), `visible` where a row may look:
    at all rows before the bins and at its own text up to itself. `ends` are the last rows of each bin's
    texts, filled up by repetition, and `order` finds the texts among them again.
    """

    text: Int[Tensor, "bins rows"]
    offset: Int[Tensor, "bins rows"]
    visible: Bool[Tensor, "bins 1 rows columns"]
    ends: Int[Tensor, "bins slots"]
    order: Int[Tensor, "texts"]


def pack(lengths: Sequence[int], before: int) -> Packing:
    """The packing of texts of these lengths, with `before` more rows that every row sees."""
    total, longest = sum(lengths), max(lengths)
    sizes = {total} if total <= SMALLEST_BIN else {min(total, LARGEST_BIN), *range(SMALLEST_BIN, LARGEST_BIN + 1)}
    plans = [(size, list(_fill(lengths, size))) for size in sorted({max(size, longest) for size in sizes})]
    size, bins = min(plans, key=lambda plan: len(plan[1]) * plan[0] * (LINEAR_COST + plan[0] + before))
    text = torch.full((len(bins), size), -1)
    offset = torch.zeros(len(bins), size, dtype=torch.long)
    slots = max(map(len, bins))
    ends = torch.zeros(len(bins), slots, dtype=torch.long)
    order = torch.empty(len(lengths), dtype=torch.long)
    for i, members in enumerate(bins):
        stop = 0
        for slot, member in enumerate(members):
            start, stop = stop, stop + lengths[member]
            text[i, start:stop] = member
            offset[i, start:stop] = torch.arange(lengths[member])
            ends[i, slot:] = stop - 1
            order[member] = i * slots + slot
    own = (text[:, :, None] == text[:, None, :]) & torch.ones(size, size, dtype=torch.bool).tril()
    visible = torch.cat((torch.ones(len(bins), size, before, dtype=torch.bool), own), dim=2)
    return Packing(text, offset, visible[:, None], ends, order)


def _fill(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Bins of text indices, each filled with the longest texts that still fit."""
    waiting: dict[int, list[int]] = {length: [] for length in sorted(Counter(lengths), reverse=True)}
    for index, length in enumerate(lengths):
        waiting[length].append(index)
    left = len(lengths)
    while left:
        members: list[int] = []
        room = size
        for length, indices in waiting.items():
            take = min(len(indices), room // length)
            members += indices[:take]
            del indices[:take]
            room -= take * length
        left -= len(members)
        yield members
