"""MATLAB files, which Flowers102 keeps its labels in."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from common.matfile import read_vectors


def write_mat(path: Path, variables: dict[str, list[int]], *, compressed: bool) -> None:
    """A MATLAB 5 file of row vectors of doubles, stored as bytes or shorts as MATLAB does."""

    def element(kind: int, body: bytes) -> bytes:
        if len(body) <= 4:
            return struct.pack("<HH", kind, len(body)) + body.ljust(4, b"\0")
        return struct.pack("<II", kind, len(body)) + body + b"\0" * (-len(body) % 8)

    content = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    for name, values in variables.items():
        kind, stored = (2, "u1") if max(values) < 256 else (4, "<u2")
        body = element(6, struct.pack("<II", 6, 0)) + element(5, struct.pack("<ii", 1, len(values)))
        body += element(1, name.encode()) + element(kind, np.array(values, dtype=stored).tobytes())
        matrix = element(14, body)
        packed = zlib.compress(matrix)
        content += struct.pack("<II", 15, len(packed)) + packed if compressed else matrix
    path.write_bytes(content)


@pytest.mark.parametrize("compressed", [True, False])
def test_matlab_vectors_round_trip(tmp_path: Path, compressed: bool) -> None:
    """Whole numbers come out of a MATLAB file as they went in, small and large, compressed or not."""
    variables = {"labels": [*range(1, 103)], "trnid": [8189, 1, 300], "tiny": [7, 8]}
    write_mat(tmp_path / "a.mat", variables, compressed=compressed)
    assert read_vectors(tmp_path / "a.mat") == variables


def test_matlab_refuses_others(tmp_path: Path) -> None:
    """A file of another kind is refused by name."""
    (tmp_path / "a.mat").write_bytes(b"no" * 100)
    with pytest.raises(ValueError, match=r"a\.mat: not a MATLAB 5 file"):
        read_vectors(tmp_path / "a.mat")
