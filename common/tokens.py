"""Texts as token ids, whatever the tokenizer; ids once found are kept on disk."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from jaxtyping import Int
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from common.atomic import replacing


class Tokens:
    """A tokenizer, called as open_clip's are: texts and a context length in, one padded row a text out.

    With a `file`, texts that were tokenised before need no tokenizer, which then is never made.
    """

    def __init__(self, tokenizer: Callable[[], Any], context_length: int, file: Path | None = None) -> None:
        self._tokenizer, self.context_length, self._file = tokenizer, context_length, file
        self._columns = context_length + 2  # so that what does not fit shows
        self._known = _read(file, self._columns) if file else {}

    @property
    def head(self) -> int:
        """How many tokens every text starts with: CLIP's start of text."""
        empty, letter = self._rows(["", "a"])
        return int((empty == letter).int().cumprod(0).sum())

    def rows(self, texts: Sequence[str], context_tokens: int = 0) -> Int[Tensor, "texts length"]:
        """Token ids of the texts, with places for `context_tokens` vectors after the first `head` of them.

        Raises:
            ValueError: a text does not fit the context length beside the vectors; names that text.
        """
        length, head = self.context_length, self.head
        empty, letter, *rows = self._rows(["", "a", *texts])
        if empty[-1] != empty[-2]:
            raise ValueError("this tokenizer ends texts with a token after the padding: no context can be put in")
        places = letter[head].expand(context_tokens)
        spliced = torch.stack([torch.cat((row[:head], places, row[head:])) for row in rows])
        fits = (spliced[:, length:] == empty[-1]).all(1) & torch.isin(spliced[:, length - 1], empty[head:])
        if not fits.all():
            text = texts[int(fits.int().argmin())]
            beside = f" beside {context_tokens} context tokens" if context_tokens else ""
            raise ValueError(f"the text {text!r} does not fit the CLIP's {length} tokens{beside}")
        return spliced[:, :length]

    def _rows(self, texts: Sequence[str]) -> Int[Tensor, "texts columns"]:
        """Token ids in two columns more than the context length."""
        if missing := [text for text in dict.fromkeys(texts) if text not in self._known]:
            rows = self._tokenizer()(missing, context_length=self._columns)
            self._known |= dict(zip(missing, rows.tolist(), strict=True))
            if self._file:
                self._keep(self._file)
        return torch.tensor([self._known[text] for text in texts])

    def _keep(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"), replacing(file) as beside:
            beside.write_text(json.dumps(_read(file, self._columns) | self._known))


_ROWS = TypeAdapter(dict[str, list[int]])


def _read(file: Path, length: int) -> dict[str, list[int]]:
    """The rows in the file, if it is one of ours, that are as long as they must be."""
    try:
        rows = _ROWS.validate_json(file.read_bytes(), strict=True)
    except (OSError, ValidationError):
        return {}
    return {text: row for text, row in rows.items() if len(row) == length}
