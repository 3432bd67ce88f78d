"""Broken files and image modes."""

import logging
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.images import to_rgb
from tests.folders import classes, load, paint

pytestmark = pytest.mark.usefixtures("own_cache")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")


def broken(folder: Path) -> Path:
    """A hundred pictures, one of which is cut off in the middle."""
    classes(folder, count=50)
    path = folder / "bike" / "07.png"
    path.write_bytes(path.read_bytes()[:120])
    return path


def test_broken_images_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broken file is left out, its path logged, and counted in the notes; also when the survey is known."""
    path = broken(tmp_path / "d")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            task = load(tmp_path / "d", tmp_path)
        assert str(path) in caplog.text
        assert (len(task.data), task.notes) == (99, ("skipped 1 unreadable images",))
    assert all(task.data[row]["image"].size == (12, 10) for row in range(99))


def test_too_many_broken_images(tmp_path: Path) -> None:
    """Above the tolerated share the load stops, with counts, the share and a path."""
    path = broken(tmp_path / "d")
    with pytest.raises(ValueError, match=r"1 of 100 images cannot be read \(1\.0%, more than") as caught:
        load(tmp_path / "d", tmp_path, broken_share=0.005)
    assert str(path) in str(caught.value)


def test_an_image_repaired_behind_our_back_is_seen(tmp_path: Path) -> None:
    """Also one of the same size and time as before; so, too, one that may be read only now."""
    path = tmp_path / "d" / "bike" / "07.png"
    classes(tmp_path / "d", count=50)
    whole, status = path.read_bytes(), path.stat()
    for content, images in ((whole[:60] + bytes(len(whole) - 60), 99), (whole, 100)):
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert len(load(tmp_path / "d", tmp_path).data) == images


@pytest.mark.parametrize("damage", [b"", b"\x00\xff", b"[1", b"[1, 2]", b'[["a"], {}]', b'{"a": 1}'])
def test_a_damaged_survey_is_made_again(tmp_path: Path, damage: bytes) -> None:
    """What was kept of an earlier look is never trusted blindly."""
    path = broken(tmp_path / "d")
    load(tmp_path / "d", tmp_path)
    (kept,) = (tmp_path / "cache" / "surveys").glob("*.json")
    kept.write_bytes(damage)
    task = load(tmp_path / "d", tmp_path)
    assert (len(task.data), task.notes) == (99, ("skipped 1 unreadable images",))
    assert path.exists()


def test_a_repaired_image_is_seen(tmp_path: Path) -> None:
    """A file that was replaced is looked at again."""
    path = broken(tmp_path / "d")
    load(tmp_path / "d", tmp_path)
    paint(path, 0, 7)
    assert len(load(tmp_path / "d", tmp_path).data) == 100


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode: str) -> None:
    """Whatever mode an image has, an RGB one of its size comes out."""
    image = to_rgb(Image.new(mode, (5, 3)))
    assert (image.mode, image.size) == ("RGB", (5, 3))


def test_meaning_survives_conversion() -> None:
    """Transparent becomes white, 16-bit grey keeps its brightness, and EXIF rotation is applied."""
    assert to_rgb(Image.new("RGBA", (1, 1), (200, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    palette.info["transparency"] = b"\x00"
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    assert [to_rgb(deep).getpixel((x, 0))[0] for x in range(3)] == [0, 127, 255]
    turned = Image.new("RGB", (5, 3))
    turned.getexif()[0x0112] = 6
    stored = BytesIO()
    turned.save(stored, "JPEG", exif=turned.getexif())
    assert to_rgb(Image.open(stored)).size == (3, 5)


def test_files_of_every_mode_load(tmp_path: Path) -> None:
    """Grey, palette, CMYK, rotated and large files all pass the survey and come out as they are."""
    folder = tmp_path / "d" / "x"
    folder.mkdir(parents=True)
    for number, (mode, ending) in enumerate((("L", "jpg"), ("P", "gif"), ("CMYK", "jpg"), ("I;16", "tiff"))):
        Image.new(mode, (9 + number, 5)).save(folder / f"{mode.replace(';', '')}.{ending}")
    Image.new("RGB", (4000, 4000)).save(folder / "large.png")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    task = load(tmp_path / "d", tmp_path)
    assert len(task.data) == 5
    for row in task.data:
        with row["image"] as image:  # a GIF stays open for its next frame
            assert to_rgb(image).mode == "RGB"
