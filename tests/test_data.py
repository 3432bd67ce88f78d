"""Folders, tables, splits and duplicates: what a task is made of."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.data import few_shots, load_site
from tests.folders import classes, load, paint, pixels, table

pytestmark = pytest.mark.usefixtures("own_cache")


def test_folder_per_class(tmp_path: Path) -> None:
    """A folder per class is read in sorted order, and 30 % of every class held out."""
    task = load(classes(tmp_path / "d"), tmp_path)
    assert (task.class_names, task.domain_names) == (("bike", "mug"), ())
    assert np.bincount(task.column("label")[task.test]).tolist() == [3, 3]
    assert task.split == "30 % of every class, drawn with seed 0"
    assert task.column("domain").tolist() == [0] * 20
    for row, key in ((0, (0, 0)), (19, (1, 9))):
        assert (np.asarray(task.data[row]["image"]) == np.asarray(pixels(*key))).all()


def test_folder_per_domain_and_class(tmp_path: Path) -> None:
    """Two levels of folders are domains and classes; the share is held out of every class in each domain."""
    for domain in ("photo", "art"):
        for label, name in enumerate(("bike", "mug")):
            for number in range(5):
                paint(tmp_path / "d" / domain / name / f"{number}.png", len(domain), label, number)
    task = load(tmp_path / "d", tmp_path, test_share=0.4)
    assert task.domain_names == ("art", "photo")
    held_out = task.column("domain")[task.test] * 2 + task.column("label")[task.test]
    assert np.bincount(held_out).tolist() == [2, 2, 2, 2]
    assert task.split == "40 % of every class in every domain, drawn with seed 0"


@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders(tmp_path: Path, above: bool, held_out: str) -> None:
    """`train` and `test` (or `val`) above or below the domains are the split, whatever the seed."""
    for part, count in (("train", 3), (held_out, 2)):
        for domain in ("a", "b"):
            for number in range(count):
                place = (part, domain) if above else (domain, part)
                paint(Path(tmp_path, "d", *place, "mug", f"{number}.png"), len(part), ord(domain), number)
    tasks = [load(tmp_path / "d", tmp_path, seed=seed) for seed in (0, 1)]
    assert tasks[0].fingerprint == tasks[1].fingerprint
    assert (tasks[0].split, tasks[0].test.sum(), tasks[0].domain_names) == ("official", 4, ("a", "b"))


def test_parquet_with_names(tmp_path: Path) -> None:
    """Where images have names, a name is in train or in test in every domain alike, in each class's share."""
    task = load(table(tmp_path / "t.parquet"), tmp_path)
    assert task.class_names == ("mammal", "bird")
    names = np.array(task.data["name"][:])
    assert not set(names[task.test]) & set(names[~task.test])
    assert np.bincount(task.column("label")[task.test]).tolist() == [12, 12]
    assert task.split == "30 % of the names in every class, drawn with seed 0"


def test_identical_images_stay_together(tmp_path: Path) -> None:
    """Names that share an identical image are on the same side of the split, for every seed."""
    path = table(tmp_path / "t.parquet", copies=True)
    for seed in range(8):
        task = load(path, tmp_path, seed=seed)
        names = np.array(task.data["name"][:])
        assert len(set(task.test[(names == "n0") | (names == "n1")])) == 1


def test_table_changed(tmp_path: Path) -> None:
    """A file that was changed under the same name is looked at again."""
    first = load(table(tmp_path / "t.parquet"), tmp_path)
    again = load(table(tmp_path / "t.parquet"), tmp_path)
    other = load(table(tmp_path / "t.parquet", copies=True), tmp_path)
    assert first.content == again.content != other.content


def test_duplicates_are_removed(tmp_path: Path) -> None:
    """Exact copies are left out but for the first, before the split, and the notes say how many."""
    folder = classes(tmp_path / "d")
    paint(folder / "bike" / "copy.png", 0, 3)
    paint(folder / "bike" / "copy2.png", 0, 3)
    paint(folder / "mug" / "copy.png", 1, 4)
    task = load(folder, tmp_path)
    assert len(task.data) == 20
    assert task.notes == ("removed 3 exact duplicates (2 groups)",)


def test_duplicates_in_an_official_split(tmp_path: Path) -> None:
    """A split that comes with the data set is kept as it is, and images in both of its parts are noted."""
    classes(tmp_path / "d" / "train")
    paint(tmp_path / "d" / "test" / "mug" / "0.png", 1, 4)
    paint(tmp_path / "d" / "test" / "mug" / "1.png", 7)
    task = load(tmp_path / "d", tmp_path)
    assert (len(task.data), task.test.sum()) == (22, 2)
    assert task.notes == ("1 images are in both parts of the split",)


def test_seed_decides_the_split_alone(tmp_path: Path) -> None:
    """Another seed is another split of the same images; the same seed gives the same one."""
    folder = classes(tmp_path / "d")
    first, again, other = (load(folder, tmp_path, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert (first.test == again.test).all()
    assert (first.test != other.test).any()
    assert first.content == other.content


def test_fingerprint_does_not_know_the_place(tmp_path: Path) -> None:
    """The same images in another folder have the same fingerprint; a changed image or class name another."""
    one, two = (load(classes(tmp_path / place), tmp_path) for place in ("d", "e"))
    assert one.fingerprint == two.fingerprint
    paint(tmp_path / "e" / "mug" / "00.png", 99)
    assert load(tmp_path / "e", tmp_path).fingerprint != one.fingerprint
    (tmp_path / "d" / "mug").rename(tmp_path / "d" / "muh")
    assert load(tmp_path / "d", tmp_path).fingerprint != one.fingerprint


def test_shots(tmp_path: Path) -> None:
    """`shots` keeps so many training images of every class and every test image, by the seed."""
    folder = classes(tmp_path / "d")
    whole = load(folder, tmp_path)
    task = load(folder, tmp_path, shots=4)
    assert np.bincount(task.column("label")[~task.test]).tolist() == [4, 4]
    assert task.test.sum() == whole.test.sum()
    assert (few_shots(whole, 4, 0) == few_shots(whole, 4, 0)).all()
    assert (few_shots(whole, 4, 0) != few_shots(whole, 4, 1)).any()
    assert len(few_shots(whole, 99, 0)) == 14
    assert task.fingerprint != whole.fingerprint


def test_site(tmp_path: Path) -> None:
    """A site may lack classes and spell them its own way; labels are the federation's."""
    names = ("alarm clock", "mug", "bike")
    task = load_site(
        str(classes(tmp_path / "site", ("Bike", "Alarm_Clock"))),
        names,
        domain="ward 3",
        cache=str(tmp_path / "c"),
    )
    assert (task.class_names, task.domain_names) == (names, ("ward 3",))
    assert np.bincount(task.column("label"), minlength=3).tolist() == [10, 0, 10]
    assert np.asarray(task.data[0]["image"]).tolist() == np.asarray(pixels(1, 0)).tolist()


def test_site_with_an_unknown_class(tmp_path: Path) -> None:
    """A folder that is no class of the federation is refused, with the nearest class."""
    folder = classes(tmp_path / "site", ("bike", "mugs"))
    with pytest.raises(ValueError, match="folder 'mugs' is none of the 2 classes, did you mean 'mug'"):
        load_site(str(folder), ("bike", "mug"), cache=str(tmp_path))


def test_site_with_domains(tmp_path: Path) -> None:
    """A site's folder with domains inside is refused."""
    classes(tmp_path / "site" / "ward")
    with pytest.raises(ValueError, match=r"a folder per class, not domains \(ward\)"):
        load_site(str(tmp_path / "site"), ("bike", "mug"), cache=str(tmp_path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ([], "no images; wanted a folder per class"),
        (["a.png"], "a.png is out of place; wanted CLASS/image or DOMAIN/CLASS/image"),
        (["x/a.png", "y/z/b.png"], "y/z/b.png is out of place"),
        (["x/y/z/w/a.png"], "x/y/z/w/a.png is out of place"),
    ],
)
def test_folders_that_will_not_do(tmp_path: Path, make: list[str], message: str) -> None:
    """A folder without images, or with images where no class is, is refused with the first of them."""
    (tmp_path / "d").mkdir()
    for number, name in enumerate(make):
        paint(tmp_path / "d" / name, number)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "d", tmp_path)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_share_out_of_range(tmp_path: Path, share: float) -> None:
    """A test share that leaves one part empty is refused."""
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        load(classes(tmp_path / "d"), tmp_path, test_share=share)


WORKER = """
import json, sys, datasets, numpy as np
from pathlib import Path
datasets.disable_progress_bars()
datasets.config.HF_DATASETS_CACHE = Path(sys.argv[2])
from common.data import load_task
from common.partition import partition
for name in sys.argv[3:]:
    task = load_task(name, root=sys.argv[1], cache=sys.argv[2])
    images = [int(np.asarray(row["image"]).sum()) for row in task.data]
    rows = [task.class_names, task.domain_names, images, task.column("label").tolist(), task.test.tolist()]
    kinds = [partition(task, kind, 2, seed=1).digest for kind in ("iid", "pathological", "dirichlet")]
    print(json.dumps([rows, task.fingerprint, kinds]))
"""


def test_hash_seed_changes_nothing(tmp_path: Path) -> None:
    """In processes with different PYTHONHASHSEED every image has the same label, name, part and holder."""
    for domain in ("Caltech", "amazon", "dslr", "webcam"):
        classes(tmp_path / "office_caltech10" / domain, ("backpack", "bike", "mug", "mouse", "keyboard"), 4)
        for number in range(2):  # pictures that no other domain has
            own = tmp_path / "office_caltech10" / domain / "mug" / f"own{number}.png"
            paint(own, len(domain), ord(domain[0]), number)
    paint(tmp_path / "VLCS" / "SUN" / "train" / "0" / "a.png", 1)
    table(tmp_path / "t.parquet")
    outputs = {
        subprocess.run(
            [
                sys.executable,
                "-c",
                WORKER,
                str(tmp_path),
                str(tmp_path / seed),
                "office-caltech10",
                str(tmp_path / "t.parquet"),
            ],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(tmp_path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(outputs) == 1
    first = json.loads(outputs.pop().splitlines()[0])
    assert first[0][0] == ["backpack", "bike", "keyboard", "mouse", "mug"]


def test_task_is_a_value(tmp_path: Path) -> None:
    """A task can be copied with a change, and its own fields are not assigned to."""
    task = load(classes(tmp_path / "d"), tmp_path)
    assert replace(task, name="other").fingerprint == task.fingerprint
    with pytest.raises(AttributeError):
        task.name = "other"  # type: ignore[misc]
