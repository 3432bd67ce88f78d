"""Every reader on a miniature of its data set, in exactly its authors' layout."""

import json
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from common.data import Task, load_task
from tests.folders import write_lines
from tests.test_matfile import write_mat

pytestmark = pytest.mark.usefixtures("own_cache")


def paint(path: Path) -> None:
    """A small picture that only this file holds, in the format its ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(path).encode()))
    Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)


def load(name: str, root: Path, **options: float) -> Task:
    """The data set under the root, with its cache beside it."""
    return load_task(name, root=str(root), cache=str(root / "cache"), **options)


def pairs(task: Task) -> set[tuple[str, str, str, bool]]:
    """(domain, class, image file, whether it tests) of every image."""
    raw = task.data.cast_column("image", datasets.Image(decode=False))
    domains = task.domain_names or ("",)
    return {
        (domains[domain], task.class_names[label], Path(row["image"]["path"]).name, bool(test))
        for row, label, domain, test in zip(raw, task.column("label"), task.column("domain"), task.test, strict=True)
    }


def caltech101(root: Path) -> None:
    """101_ObjectCategories/CLASS/image_0001.jpg, with a background class and two classes of faces."""
    for name in ("BACKGROUND_Google", "Faces", "Faces_easy", "Leopards", "accordion", "airplanes"):
        for number in range(1, 5):
            paint(root / "caltech-101" / "101_ObjectCategories" / name / f"image_{number:04}.jpg")


def test_caltech101(tmp_path: Path) -> None:
    """Caltech101 has CoOp's classes and names in CoOp's order, and a drawn split."""
    caltech101(tmp_path)
    task = load("caltech101", tmp_path)
    assert task.class_names == ("face", "leopard", "accordion", "airplane")
    assert len(task.data) == 16
    assert task.split == "30 % of every class, drawn with seed 0"
    assert np.bincount(task.column("label")[task.test]).tolist() == [1, 1, 1, 1]


def test_coop_split(tmp_path: Path) -> None:
    """CoOp's list, where it is present, decides images, parts, labels and names, and the record says so."""
    caltech101(tmp_path)
    rows = [["accordion/image_0001.jpg", 1, "accordion"], ["Leopards/image_0002.jpg", 0, "leopard"]]
    held_out = [["accordion/image_0003.jpg", 1, "accordion"], ["Leopards/image_0004.jpg", 0, "leopard"]]
    split = {"train": rows, "val": [["airplanes/image_0001.jpg", 1, "x"]], "test": held_out}
    (tmp_path / "caltech-101" / "split_zhou_Caltech101.json").write_text(json.dumps(split))
    task = load("caltech101", tmp_path)
    assert task.split == "CoOp split_zhou_Caltech101.json, without its val part"
    assert pairs(task) == {
        ("", "accordion", "image_0001.jpg", False),
        ("", "leopard", "image_0002.jpg", False),
        ("", "accordion", "image_0003.jpg", True),
        ("", "leopard", "image_0004.jpg", True),
    }
    assert task.class_names == ("leopard", "accordion")


def test_oxford_pets(tmp_path: Path) -> None:
    """OxfordPets pairs the lists in annotations/ with images/; labels there count from 1."""
    folder = tmp_path / "oxford_pets"
    names = ("Abyssinian", "american_bulldog", "yorkshire_terrier")
    for part, numbers in (("trainval", (100, 101)), ("test", (200, 201, 202))):
        lines = [f"{name}_{n} {label} {1 + (label > 1)} 1" for label, name in enumerate(names, 1) for n in numbers]
        write_lines(folder / "annotations" / f"{part}.txt", lines)
        for name in names:
            for number in numbers:
                paint(folder / "images" / f"{name}_{number}.jpg")
    write_lines(folder / "annotations" / "list.txt", ["# Image CLASS-ID SPECIES BREED ID"])
    (folder / "images" / "Abyssinian_100.mat").write_bytes(b"MATLAB")
    task = load("oxford-pets", tmp_path)
    assert task.class_names == ("abyssinian", "american_bulldog", "yorkshire_terrier")
    assert (len(task.data), task.test.sum(), task.split) == (15, 9, "official")
    assert ("", "yorkshire_terrier", "yorkshire_terrier_202.jpg", True) in pairs(task)


def flowers102(root: Path, *, names: bool = True) -> Path:
    """The folder jpg/ and the .mat files as the authors have them, and CoOp's cat_to_name.json."""
    folder = root / "oxford_flowers"
    labels = [1, 1, 2, 2, 3, 3, 3, 1, 2]
    for number in range(1, 10):
        paint(folder / "jpg" / f"image_{number:05}.jpg")
    write_mat(folder / "imagelabels.mat", {"labels": labels}, compressed=True)
    parts = {"trnid": [1, 3, 5], "valid": [2, 4, 6], "tstid": [7, 8, 9]}
    write_mat(folder / "setid.mat", parts, compressed=True)
    if names:
        titles = {"1": "pink primrose", "2": "hard-leaved pocket orchid", "3": "canterbury bells"}
        (folder / "cat_to_name.json").write_text(json.dumps(titles))
    return folder


def test_flowers102(tmp_path: Path) -> None:
    """Flowers102 reads labels and split from its .mat files and names from CoOp's list of them."""
    flowers102(tmp_path)
    task = load("flowers102", tmp_path)
    assert task.class_names == ("pink primrose", "hard-leaved pocket orchid", "canterbury bells")
    assert task.column("label").tolist() == [0, 0, 1, 1, 2, 2, 2, 0, 1]
    assert task.test.tolist() == [False] * 6 + [True] * 3


def test_flowers102_needs_names(tmp_path: Path) -> None:
    """Flowers102 without class names is refused with the file that is missing."""
    flowers102(tmp_path, names=False)
    with pytest.raises(ValueError, match=r"no class names; put CoOp's cat_to_name\.json"):
        load("flowers102", tmp_path)


def test_food101(tmp_path: Path) -> None:
    """Food101 reads meta/train.txt and meta/test.txt, whose lines lack the images' ending."""
    folder = tmp_path / "food-101"
    for part, numbers in (("train", (11, 12, 13)), ("test", (14,))):
        lines = [f"{name}/{number}" for name in ("apple_pie", "waffles") for number in numbers]
        write_lines(folder / "meta" / f"{part}.txt", lines)
        for line in lines:
            paint(folder / "images" / f"{line}.jpg")
    task = load("food101", tmp_path)
    assert task.class_names == ("apple_pie", "waffles")
    assert (len(task.data), task.test.sum()) == (8, 2)
    assert ("", "waffles", "14.jpg", True) in pairs(task)


def test_dtd(tmp_path: Path) -> None:
    """DTD follows the first of its ten splits, its validation part for training."""
    folder = tmp_path / "dtd"
    for part, number in (("train", 1), ("val", 2), ("test", 3)):
        lines = [f"{name}/{name}_{number:04}.jpg" for name in ("banded", "zigzagged")]
        write_lines(folder / "labels" / f"{part}1.txt", lines)
        write_lines(folder / "labels" / f"{part}2.txt", lines[:1])
        for line in lines:
            paint(folder / "images" / line)
    task = load("dtd", tmp_path)
    assert task.class_names == ("banded", "zigzagged")
    assert task.split == "official, first of ten"
    assert {image for _, _, image, test in pairs(task) if test} == {"banded_0003.jpg", "zigzagged_0003.jpg"}


def cifar_batch(path: Path, rng: np.random.Generator, **labels: list[int]) -> np.ndarray:
    """A pickle as CIFAR's: rows of 3,072 bytes, red, green, blue, row by row."""
    count = len(next(iter(labels.values())))
    data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"data": data, "filenames": ["x.png"] * count, **labels}, protocol=2))
    return data


def test_cifar10(tmp_path: Path) -> None:
    """CIFAR-10's pickles give back every pixel, in the order of the batches, with names from batches.meta."""
    folder, rng = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    batches = [cifar_batch(folder / f"data_batch_{n}", rng, labels=[n % 2, 1]) for n in range(1, 6)]
    batches.append(cifar_batch(folder / "test_batch", rng, labels=[0, 1, 1]))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "frog"]}, protocol=2))
    task = load("cifar10", tmp_path)
    assert task.class_names == ("airplane", "frog")
    assert task.column("label").tolist() == [1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1]
    assert task.test.tolist() == [False] * 10 + [True] * 3
    for row, values in enumerate(np.concatenate(batches)):
        picture = np.asarray(task.data[row]["image"])
        assert (picture[4, 7] == [values[4 * 32 + 7 + 1024 * colour] for colour in range(3)]).all()


def test_cifar100(tmp_path: Path) -> None:
    """CIFAR-100 is read by its fine labels."""
    folder, rng = tmp_path / "cifar-100-python", np.random.default_rng(0)
    cifar_batch(folder / "train", rng, fine_labels=[2, 0, 1], coarse_labels=[1, 0, 0])
    cifar_batch(folder / "test", rng, fine_labels=[1, 2], coarse_labels=[0, 1])
    meta = {"fine_label_names": ["apple", "bear", "cloud"], "coarse_label_names": ["x", "y"]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    task = load("cifar100", tmp_path)
    assert task.class_names == ("apple", "bear", "cloud")
    assert task.column("label").tolist() == [2, 0, 1, 1, 2]


def test_cifar_runs_no_code(tmp_path: Path) -> None:
    """A pickle that would run code in place of CIFAR's is refused."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match=r"batches\.meta: not one of CIFAR's pickles"):
        load("cifar10", tmp_path)


DOMAINNET_DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")


@pytest.mark.parametrize("lists", ["", "splits", "txt"])
def test_domainnet(tmp_path: Path, lists: str) -> None:
    """DomainNet pairs DOMAIN_train.txt and DOMAIN_test.txt with its images; the subset has ten classes."""
    folder = tmp_path / "domainnet"
    names = ("aircraft_carrier", "bird", "feather", "zebra")
    subset = ("headphones", "ice_cream", "teapot", "tiger", "whale", "windmill", "wine_glass")
    classes = sorted(names + subset)
    for domain in DOMAINNET_DOMAINS:
        for part, number in (("train", 1), ("test", 2)):
            images = [f"{domain}/{name}/{domain}_{label:03}_{number:06}.jpg" for label, name in enumerate(classes)]
            write_lines(folder / lists / f"{domain}_{part}.txt", [f"{im} {n}" for n, im in enumerate(images)])
            for image in images:
                paint(folder / image)
    task = load("domainnet", tmp_path)
    assert task.class_names == tuple(classes)
    assert task.domain_names == DOMAINNET_DOMAINS
    assert (len(task.data), task.test.sum(), task.split) == (132, 66, "official")
    assert ("real", "bird", "real_001_000002.jpg", True) in pairs(task)
    small = load("domainnet-10", tmp_path)
    assert small.class_names == tuple(name for name in classes if name != "aircraft_carrier")
    assert pairs(small) == {pair for pair in pairs(task) if pair[1] != "aircraft_carrier"}


def test_domainnet_10_lacks_a_class(tmp_path: Path) -> None:
    """A copy of DomainNet without one of the ten classes is refused, and is not ten classes with one empty."""
    for name in ("bird", "feather", "headphones", "ice_cream", "teapot", "tiger", "whale", "windmill", "wine glass"):
        paint(tmp_path / "domainnet" / "clipart" / name / "clipart_001.png")
    with pytest.raises(ValueError, match="domainnet-10: no class wine_glass, zebra in this copy"):
        load("domainnet-10", tmp_path)


@pytest.mark.parametrize("folder", ["office_caltech10", "office_caltech_10", ""])
def test_office_caltech10(tmp_path: Path, folder: str) -> None:
    """Office-Caltech10 is a folder per domain and class, under either name or as the root itself."""
    for domain in ("Caltech", "amazon", "dslr", "webcam"):
        for name in ("backpack", "laptop_computer"):
            for number in range(1, 5):
                paint(tmp_path / folder / domain / name / f"frame_{number:04}.jpg")
    (tmp_path / folder / "README.md").write_text("Office Caltech")
    task = load("office-caltech10", tmp_path)
    assert task.class_names == ("backpack", "laptop_computer")
    assert task.domain_names == ("Caltech", "amazon", "dslr", "webcam")
    assert (len(task.data), task.test.sum()) == (32, 8)


@pytest.mark.parametrize("inside", ["images", "kfold", ""])
def test_pacs(tmp_path: Path, inside: str) -> None:
    """PACS is read from images/, kfold/ or its own folder, whatever lists lie beside it."""
    for domain in ("art_painting", "cartoon", "photo", "sketch"):
        for name in ("dog", "elephant"):
            for number in range(3):
                paint(tmp_path / "pacs" / inside / domain / name / f"pic_{number:03}.png")
    write_lines(tmp_path / "pacs" / "splits" / "photo_train_kfold.txt", ["photo/dog/pic_000.png 1"])
    task = load("pacs", tmp_path)
    assert task.class_names == ("dog", "elephant")
    assert task.domain_names == ("art_painting", "cartoon", "photo", "sketch")
    assert task.split == "30 % of every class in every domain, drawn with seed 0"


def test_vlcs(tmp_path: Path) -> None:
    """VLCS's numbered classes get their names; crossval trains, test tests, and full is not read twice."""
    for domain in ("CALTECH", "LABELME", "PASCAL", "SUN"):
        for label in range(5):
            for part in ("train", "crossval", "test", "full"):
                paint(tmp_path / "VLCS" / domain / part / str(label) / f"imgs_{part}.jpg")
    task = load("vlcs", tmp_path)
    assert task.class_names == ("bird", "car", "chair", "dog", "person")
    assert task.domain_names == ("CALTECH", "LABELME", "PASCAL", "SUN")
    assert (len(task.data), task.test.sum(), task.split) == (60, 20, "official")
    assert ("SUN", "person", "imgs_test.jpg", True) in pairs(task)


def test_vlcs_with_named_classes(tmp_path: Path) -> None:
    """VLCS as DomainBed gives it keeps the names its folders have."""
    for domain in ("Caltech101", "LabelMe", "SUN09", "VOC2007"):
        for name in ("bird", "person"):
            for number in range(2):
                paint(tmp_path / "VLCS" / domain / name / f"{number}.jpg")
    task = load("vlcs", tmp_path)
    assert task.class_names == ("bird", "person")
    assert task.split.startswith("30 %")


@pytest.mark.parametrize("domains", [("Art", "Clipart", "Product", "Real World"), ("art", "clipart", "product")])
def test_office_home(tmp_path: Path, domains: tuple[str, ...]) -> None:
    """Office-Home is read with its authors' domains, or with Dassl's, which are lower-case."""
    for domain in domains:
        for name in ("Alarm_Clock", "TV"):
            for number in range(1, 4):
                paint(tmp_path / "OfficeHomeDataset_10072016" / domain / name / f"{number:05}.jpg")
    (tmp_path / "OfficeHomeDataset_10072016" / "ImageInfo.csv").write_text("name,width")
    task = load("office-home", tmp_path)
    assert task.class_names == ("Alarm_Clock", "TV")
    assert task.domain_names == domains
