"""The words of another side, made fit for our own logs, records and terminals."""

LONGEST = 500


def plain(words: str) -> str:
    """The words in one printable line of at most 500 characters: no line break, no control character, no escape."""
    line = " ".join("".join(c if c.isprintable() else " " for c in words[: 4 * LONGEST]).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
