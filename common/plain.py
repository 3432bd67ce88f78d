"""The words of another side, made fit for our own logs, records and terminals."""

LONGEST = 500


def plain(words: str) -> str:
    """The words in one printable line: no line break, no control character, nothing that a terminal obeys."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())


def short(words: str) -> str:
    """The same, of at most 500 characters."""
    line = plain(words[: 4 * LONGEST])
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
