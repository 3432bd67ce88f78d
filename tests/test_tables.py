"""Tables: parquet files and Arrow's two formats, columns by any name, damage."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.folders import load, pixels, table

pytestmark = pytest.mark.usefixtures("own_cache")


def test_columns_by_other_names(tmp_path: Path) -> None:
    """Columns `img` and a label of strings are understood, and parts of a table by their files' names."""
    rows = [{"img": pixels(number), "label": "mug" if number % 2 else "bike"} for number in range(8)]
    folder = tmp_path / "t"
    folder.mkdir()
    for part, some in (("train", rows[:6]), ("test", rows[6:])):
        datasets.Dataset.from_list(some).to_parquet(folder / f"{part}-00000-of-00001.parquet")
    task = load(folder, tmp_path)
    assert task.class_names == ("bike", "mug")
    assert task.test.tolist() == [False] * 6 + [True] * 2
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    assert len(load(tmp_path / "saved", tmp_path).data) == 8


def test_tables_that_will_not_do(tmp_path: Path) -> None:
    """A table without images, or whose labels are numbers without names, is refused with its columns."""
    datasets.Dataset.from_dict({"text": ["a"], "label": ["x"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: no image column among text, label"):
        load(tmp_path / "a.parquet", tmp_path)
    datasets.Dataset.from_list([{"image": pixels(0), "label": 3}]).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="column 'label' holds int64, without class names"):
        load(tmp_path / "b.parquet", tmp_path)


def test_both_of_arrow_s_formats(tmp_path: Path) -> None:
    """A file that ends in .arrow may be a stream, as `datasets` writes it, or have a footer, as Arrow's tools do."""
    rows = datasets.load_dataset("parquet", data_files=str(table(tmp_path / "t.parquet")), split="train")
    held = rows.data.table.combine_chunks()
    with pa.ipc.new_stream(tmp_path / "stream.arrow", held.schema) as file:
        file.write_table(held)
    with pa.ipc.new_file(tmp_path / "footed.arrow", held.schema) as file:
        file.write_table(held)
    tasks = [load(tmp_path / name, tmp_path) for name in ("t.parquet", "stream.arrow", "footed.arrow")]
    assert len({task.fingerprint for task in tasks}) == 1


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "footed.arrow"])
def test_damaged_tables(tmp_path: Path, name: str) -> None:
    """A table that cannot be read is one line that names the file."""
    (tmp_path / name).write_bytes((b"ARROW1" if "footed" in name else b"PAR1") + b"no table" * 50)
    with pytest.raises(ValueError, match=rf"{name}: cannot be read as a table \(") as caught:
        load(tmp_path / name, tmp_path)
    assert "\n" not in str(caught.value)


def test_rows_without_class_or_picture(tmp_path: Path) -> None:
    """A label of -1, as the hub's unlabelled parts have, is named; a picture without bytes is one more unreadable."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [pixels(n) for n in range(4)], "label": [0, 1, -1, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: column 'label' holds no class in row 2"):
        load(tmp_path / "t.parquet", tmp_path)
    held = datasets.Dataset.from_dict(rows | {"label": [0, 1, 0, 1]}, features=features).data.table.combine_chunks()
    pictures = [*held["image"].to_pylist()[:3], {"bytes": None, "path": None}]
    image = pa.array(pictures, held.schema.field("image").type)
    pq.write_table(held.set_column(0, held.schema.field("image"), image), tmp_path / "u.parquet")
    with pytest.raises(ValueError, match=r"1 of 4 images cannot be read .* holds neither bytes nor a path"):
        load(tmp_path / "u.parquet", tmp_path)


@pytest.mark.parametrize("empty", ["image", "label", "domain"])
def test_empty_cells(tmp_path: Path, empty: str) -> None:
    """A row without image, label or domain is named."""
    rows = [{"image": pixels(n), "label": "mug", "domain": "photo"} for n in range(4)]
    rows[2][empty] = None
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=rf"t\.parquet: column '{empty}' is empty in row 2"):
        load(tmp_path / "t.parquet", tmp_path)
