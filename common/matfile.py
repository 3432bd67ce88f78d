"""Numbers out of MATLAB 5 files: all that Flowers102's labels and split need."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HEADER = 128
COMPRESSED, MATRIX = 15, 14
KINDS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}


def read_vectors(path: Path) -> dict[str, list[int]]:
    """The whole numbers of every numeric variable in the file, by name.

    Raises:
        ValueError: not a little-endian MATLAB 5 file; names it.

    Source: MAT-File Format, MATLAB 5.
    """
    content = path.read_bytes()
    if content[124:128] != b"\x00\x01IM":
        raise ValueError(f"{path}: not a MATLAB 5 file")
    found: dict[str, list[int]] = {}
    for kind, body in _elements(content[HEADER:]):
        inner = next(_elements(zlib.decompress(body))) if kind == COMPRESSED else (kind, body)
        if inner[0] == MATRIX:
            _, _, (_, name), (stored, values) = list(_elements(inner[1]))[:4]
            found[name.decode()] = np.frombuffer(values, KINDS[stored]).astype(np.int64).tolist()
    return found


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, body) of one element after the other; small ones have their body inside the tag."""
    place = 0
    while place + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, place)
        if kind >> 16:
            kind, size, start, step = kind & 0xFFFF, kind >> 16, place + 4, 8
        else:
            start = place + 8
            step = 8 + size + (0 if kind == COMPRESSED else -size % 8)
        yield kind, content[start : start + size]
        place += step
