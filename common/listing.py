"""Data sets as they are found: a folder of images, or a table with an image column (parquet, Arrow, hub)."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetsError
from jaxtyping import Bool
from PIL import Image

from common.config import nearest

TRAIN, TEST, VALIDATION = "train", "test", ("val", "valid", "validation", "crossval")
PARTS = (TRAIN, TEST, *VALIDATION)
IMAGES = ("image", "img", "picture", "photo")
LABELS = ("label", "labels", "fine_label", "class", "category", "target")
DOMAINS = ("domain", "style", "environment")


@dataclass(frozen=True)
class Listing:
    """Images with their labels as they were found, before any of them is looked at."""

    data: Dataset
    """Columns image, label (ClassLabel) and, where there are, domain (ClassLabel) and name."""
    test: Bool[np.ndarray, "images"] | None
    """The test part that the data set comes with; None where it comes with none."""
    split: str = "official"
    """Where `test` comes from."""


@dataclass(frozen=True)
class Entry:
    """One image file."""

    path: Path
    label: int
    domain: int = 0
    test: bool = False


def listing(
    entries: Sequence[Entry], class_names: Sequence[str], domain_names: Sequence[str] = (), *, split: str = ""
) -> Listing:
    """The listing of image files, which are opened when asked for. An empty `split`: no test part."""
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(class_names))})
    columns: dict[str, list[object]] = {
        "image": [str(entry.path) for entry in entries],
        "label": [entry.label for entry in entries],
    }
    if domain_names:
        features["domain"] = ClassLabel(names=list(domain_names))
        columns["domain"] = [entry.domain for entry in entries]
    test = np.array([entry.test for entry in entries], dtype=bool) if split else None
    return Listing(Dataset.from_dict(columns, features=features), test, split)


def image_files(folder: Path, skip: Collection[str] = ()) -> Iterator[Path]:
    """Paths of images below the folder, relative to it, in a fixed order, by the endings Pillow reads."""
    known = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in skip)
        for file in sorted(files):
            if not file.startswith(".") and Path(file).suffix.lower() in known:
                yield Path(place, file).relative_to(folder)


def read_folder(folder: Path, class_names: Sequence[str] = (), *, skip: Collection[str] = ()) -> Listing:
    """Images in a folder per class, or per domain and class; `train` and `test` may stand above or below.

    Without a `test` folder, `val` is the test part; with one, `val` belongs to the training part. Classes are
    the folders' names in sorted order, or `class_names`, which the folders are matched with whatever their
    case, spaces, hyphens and underscores. Folders named in `skip` are not looked into.

    Raises:
        ValueError: no images; an image where none should be; a folder that is none of `class_names`.
    """
    files = list(image_files(folder, skip))
    if not files:
        raise ValueError(f"{folder}: no images; wanted a folder per class, or per domain and class")
    places = [list(file.parts[:-1]) for file in files]
    parts = _take_parts(places)
    depth = len(places[0]) if len(places[0]) in {1, 2} else 1
    odd = next((file for file, place in zip(files, places, strict=True) if len(place) != depth), None)
    if odd:
        raise ValueError(f"{folder}: {odd} is out of place; wanted CLASS/image or DOMAIN/CLASS/image throughout")
    names = list(class_names) or sorted({place[-1] for place in places})
    labels = match({place[-1] for place in places}, names, f"{folder}: folder")
    domains = {name: domain for domain, name in enumerate(sorted({place[0] for place in places}))}
    held_out = held_out_parts(parts)
    entries = [
        Entry(folder / file, labels[place[-1]], domains[place[0]] if depth > 1 else 0, part in held_out)
        for file, place, part in zip(files, places, parts, strict=True)
    ]
    return listing(entries, names, list(domains) if depth > 1 else (), split="official" if held_out else "")


def with_classes(found: Listing, names: Mapping[str, str]) -> Listing:
    """The images of these classes alone, in the order of `names`, which gives each class its new name."""
    old = found.data.features["label"].names
    labels = {old.index(name): label for label, name in enumerate(names) if name in old}
    given = found.data.with_format("numpy")["label"][:]
    rows = [row for row, label in enumerate(given) if label in labels]
    renamed = [labels.get(label, -1) for label in given]
    data = with_labels(found.data, "label", renamed, list(names.values())).select(rows)
    return Listing(data, None if found.test is None else found.test[rows], found.split)


def under_classes(found: Listing, class_names: Sequence[str], where: str) -> Listing:
    """The listing with these class names, in their order, in place of its own; its own where there are none.

    Raises:
        ValueError: an image's class is none of them; names it and the nearest.
    """
    if not class_names:
        return found
    own = found.data.features["label"].names
    given = found.data.with_format("numpy")["label"][:]
    labels = match({own[label] for label in set(given.tolist())}, class_names, f"{where}: class")
    renamed = [labels[own[label]] for label in given.tolist()]
    return Listing(with_labels(found.data, "label", renamed, list(class_names)), found.test, found.split)


def with_labels(data: Dataset, column: str, values: Sequence[int], names: Sequence[str]) -> Dataset:
    """The data set with this column in place of any it had, without a copy of its images."""
    if column in data.column_names:
        data = data.remove_columns(column)
    return data.add_column(column, list(values), feature=ClassLabel(names=list(names)))


def _take_parts(places: list[list[str]]) -> list[str]:
    """The train/test level, taken out of every place; empty strings where there is none."""
    for level in range(min(map(len, places))):
        names = {place[level].lower() for place in places}
        if TRAIN in names and len(names) > 1 and names <= set(PARTS):
            return [place.pop(level).lower() for place in places]
    return [""] * len(places)


def held_out_parts(parts: Sequence[str]) -> set[str]:
    """Which of the parts are the test part."""
    return {TEST} & set(parts) or set(VALIDATION) & set(parts)


def match(found: set[str], class_names: Sequence[str], where: str) -> dict[str, int]:
    """Label of each name that was found, whatever its case, spaces, hyphens and underscores.

    Raises:
        ValueError: one is no class; names it and the nearest.
    """
    labels = {_plain(name): label for label, name in enumerate(class_names)}
    for name in sorted(found):
        if _plain(name) not in labels:
            hint = nearest(name, list(class_names))
            raise ValueError(f"{where} {name!r} is none of the {len(class_names)} classes{hint}")
    return {name: labels[_plain(name)] for name in found}


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def read_table(path: Path) -> Listing:
    """A parquet or Arrow file, a folder of parquet files, or a folder that `save_to_disk` wrote.

    In a folder, files whose names begin with train, test or val are those parts, as on the hub.

    Raises:
        ValueError: a file that is none or is damaged, no image or label column, an empty cell in one, or labels
            without names; names the file.
    """
    try:
        return from_parts(_tables(path), str(path))
    except (OSError, pa.ArrowException, DatasetsError) as error:
        while error.__cause__ is not None:
            error = error.__cause__
        raise ValueError(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from None


def _tables(path: Path) -> dict[str, Dataset]:
    """The parts, by name."""
    if not path.is_dir():
        return {"": _table(path)}
    if not any(path.glob("*.parquet")):
        found = datasets.load_from_disk(str(path))
        return found if isinstance(found, dict) else {"": found}
    by_part: dict[str, list[str]] = {}
    for file in sorted(path.glob("*.parquet")):
        part = next((part for part in PARTS if file.stem.lower().startswith(part)), "")
        by_part.setdefault(part, []).append(str(file))
    return {part: Dataset.from_parquet(files) for part, files in by_part.items()}


def _table(path: Path) -> Dataset:
    """A parquet file, or one in either of Arrow's formats: the stream, mapped as it is, or the file with a footer."""
    if path.suffix != ".arrow":
        return Dataset.from_parquet(str(path))
    with path.open("rb") as file:
        if file.read(6) == b"ARROW1":
            return datasets.load_dataset("arrow", data_files=str(path), split="train")
    return Dataset.from_file(str(path))


def holds_table(path: Path) -> bool:
    """Whether `read_table` is the one to read this path."""
    if not path.is_dir():
        return path.suffix in {".parquet", ".arrow"}
    written = ("state.json", "dataset_dict.json")
    return any((path / name).is_file() for name in written) or any(path.glob("*.parquet"))


def from_parts(parts: Mapping[str, Dataset], where: str) -> Listing:
    """The listing of a data set's parts by name (train, test, ...), whatever their columns are called.

    The test part is `test`, else the validation part. Parts by other names are left out, unless there are no
    others.

    Raises:
        ValueError: no image or label column, or labels without names; names the columns there are.
    """
    usable = {name: part for name, part in parts.items() if name.lower() in PARTS} or dict(parts)
    names = sorted(usable, key=lambda name: (name.lower() != TRAIN, name))
    held_out = held_out_parts([name.lower() for name in names])
    test = np.concatenate([np.full(len(usable[name]), name.lower() in held_out) for name in names])
    data = _ours(datasets.concatenate_datasets([usable[name] for name in names]), where)
    return Listing(data, None if test.all() or not test.any() else test)


def _ours(data: Dataset, where: str) -> Dataset:
    """The data set's columns under our names and of our kinds; nothing else is kept."""
    kinds = {name: type(kind) for name, kind in data.features.items()}
    image = _column(data, IMAGES) or next((name for name in kinds if kinds[name] is ImageFeature), None)
    label = _column(data, LABELS) or next((name for name in kinds if kinds[name] is ClassLabel), None)
    if image is None or label is None:
        missing = "image" if image is None else "label"
        raise ValueError(f"{where}: no {missing} column among {', '.join(data.column_names)}")
    others = {"domain": _column(data, DOMAINS), "name": _column(data, ("name",))}
    chosen = {"image": image, "label": label} | {ours: theirs for ours, theirs in others.items() if theirs}
    data = data.select_columns(list(chosen.values()))
    data = data.rename_columns({theirs: ours for ours, theirs in chosen.items() if ours != theirs})
    if not isinstance(data.features["image"], ImageFeature):
        data = data.cast_column("image", ImageFeature())
    for column in chosen.keys() - {"name"}:
        if (cells := data.data.column(column)).null_count:
            row = pc.index(cells.is_null(), value=True).as_py()
            raise ValueError(f"{where}: column {chosen[column]!r} is empty in row {row}")
        if (
            isinstance(data.features[column], ClassLabel)
            and (below := pc.index(pc.less(cells, 0), value=True).as_py()) >= 0
        ):
            raise ValueError(f"{where}: column {chosen[column]!r} holds no class in row {below}")
    for column in {"label", "domain"} & set(chosen):
        kind = data.features[column]
        if not isinstance(kind, ClassLabel):
            if "string" not in str(kind.dtype):
                raise ValueError(f"{where}: column {chosen[column]!r} holds {kind.dtype}, without class names")
            values = data[column][:]
            numbers = {name: number for number, name in enumerate(sorted(set(values)))}
            data = with_labels(data, column, [numbers[value] for value in values], list(numbers))
    return data


def _column(data: Dataset, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in data.column_names), None)
