"""How the authors of each known data set lay it out: one reader each, from its folder to a listing.

CoOp's `split_zhou_*.json` is followed where it is present, and its class names with it; its `val` part is
left out, as CoOp does. Otherwise the data set's own split is, where it has one.

Source: CoOp and Dassl (their DATASETS.md and readers), DomainBed, and the pages in `common.sources`.
"""

import codecs
import io
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from common.listing import Entry, Listing, listing, read_folder, with_classes
from common.matfile import read_vectors

CALTECH_NAMES = {"Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike", "airplanes": "airplane"}
CALTECH_LEFT_OUT = ("BACKGROUND_Google", "Faces_easy")
CIFAR100_NAMES = {"cra": "crab"}
DOMAINNET_DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
DOMAINNET_10 = (
    *("bird", "feather", "headphones", "ice_cream", "teapot"),
    *("tiger", "whale", "windmill", "wine_glass", "zebra"),
)
VLCS_NAMES = ("bird", "car", "chair", "dog", "person")


def read_caltech101(folder: Path) -> Listing:
    """100 classes in CoOp's names: the 101 without `Faces_easy`, and no background. No official split."""
    images = folder / "101_ObjectCategories"
    coop = _coop_split(folder / "split_zhou_Caltech101.json", images)
    return coop or caltech_classes(read_folder(images, skip=CALTECH_LEFT_OUT))


def caltech_classes(found: Listing) -> Listing:
    """CoOp's choice and names of Caltech101's classes, whatever their case here."""
    names = {old.casefold(): new for old, new in CALTECH_NAMES.items()}
    dropped = {name.casefold() for name in CALTECH_LEFT_OUT}
    old = [name for name in found.data.features["label"].names if name.casefold() not in dropped]
    return with_classes(found, {name: names.get(name.casefold(), name) for name in old})


def read_oxford_pets(folder: Path) -> Listing:
    """37 breeds. Official: `annotations/trainval.txt` and `test.txt`, lines of image, class and more."""
    coop = _coop_split(folder / "split_zhou_OxfordPets.json", folder / "images")
    if coop:
        return coop
    found: list[tuple[str, int, bool]] = []
    for part in ("trainval", "test"):
        for line in _lines(folder / "annotations" / f"{part}.txt"):
            image, label = line.split()[:2]
            found.append((image, int(label) - 1, part == "test"))
    names = {label: image.rpartition("_")[0].lower() for image, label, _ in found}
    entries = [Entry(folder / "images" / f"{image}.jpg", label, test=test) for image, label, test in found]
    return listing(entries, [names[label] for label in sorted(names)], split="official")


def read_flowers102(folder: Path) -> Listing:
    """102 flowers. Official: `setid.mat`, whose training and validation parts are for training.

    Raises:
        ValueError: neither CoOp's split nor its `cat_to_name.json` is there to name the classes.
    """
    coop = _coop_split(folder / "split_zhou_OxfordFlowers.json", folder / "jpg")
    if coop:
        return coop
    named = folder / "cat_to_name.json"
    if not named.is_file():
        raise ValueError(f"{folder}: no class names; put CoOp's cat_to_name.json or split_zhou_OxfordFlowers.json here")
    names = json.loads(named.read_text())
    labels = read_vectors(folder / "imagelabels.mat")["labels"]
    parts = read_vectors(folder / "setid.mat") if (folder / "setid.mat").is_file() else {"tstid": []}
    test = set(parts["tstid"])
    entries = [
        Entry(folder / "jpg" / f"image_{number:05}.jpg", label - 1, test=number in test)
        for number, label in enumerate(labels, 1)
    ]
    class_names = [names[str(label)] for label in range(1, len(names) + 1)]
    return listing(entries, class_names, split="official" if test else "")


def read_food101(folder: Path) -> Listing:
    """101 dishes. Official: `meta/train.txt` and `meta/test.txt`, lines of class/image."""
    coop = _coop_split(folder / "split_zhou_Food101.json", folder / "images")
    return coop or _from_lists(folder / "images", [folder / "meta" / "train.txt"], folder / "meta" / "test.txt")


def read_dtd(folder: Path) -> Listing:
    """47 textures. Official: the first of ten splits, `train1.txt` and `val1.txt` against `test1.txt`."""
    coop = _coop_split(folder / "split_zhou_DescribableTextures.json", folder / "images")
    lists = folder / "labels"
    return coop or _from_lists(
        folder / "images",
        [lists / "train1.txt", lists / "val1.txt"],
        lists / "test1.txt",
        split="official, first of ten",
    )


def read_cifar10(folder: Path) -> Listing:
    """10 classes, 32 px, official split: the pickles of `cifar-10-batches-py`."""
    train = [f"data_batch_{number}" for number in range(1, 6)]
    return _cifar(folder, train, "test_batch", "labels", ("batches.meta", "label_names"))


def read_cifar100(folder: Path) -> Listing:
    """100 classes, 32 px, official split: the pickles of `cifar-100-python`."""
    return _cifar(folder, ["train"], "test", "fine_labels", ("meta", "fine_label_names"))


def cifar100_classes(found: Listing) -> Listing:
    """The hub's copy under its authors' names: the copy calls the crab "cra", which no prompt would mean."""
    return with_classes(found, {name: CIFAR100_NAMES.get(name, name) for name in found.data.features["label"].names})


def read_domainnet(folder: Path) -> Listing:
    """345 classes in six domains. Official: `DOMAIN_train.txt` and `DOMAIN_test.txt`, lines of image, class.

    The lists may lie beside the domains, or in `splits` or `txt`. A class has the number the lists give it.
    """
    lists = next(
        (place for place in (folder / "splits", folder / "txt", folder) if (place / "clipart_train.txt").is_file()),
        None,
    )
    if lists is None:
        return read_folder(folder)
    names: dict[int, str] = {}
    entries = []
    for domain, domain_name in enumerate(DOMAINNET_DOMAINS):
        for part in ("train", "test"):
            for line in _lines(lists / f"{domain_name}_{part}.txt"):
                image, _, label = line.rpartition(" ")
                names.setdefault(int(label), Path(image).parts[1])
                entries.append(Entry(folder / image, int(label), domain, part == "test"))
    return listing(entries, _ordered(names, lists), DOMAINNET_DOMAINS, split="official")


def domainnet_10(found: Listing) -> Listing:
    """The ten classes of DomainNet that FedBN chose and the federated papers use, in alphabetical order.

    Raises:
        ValueError: one of them is not among the classes there.
    """
    missing = [name for name in DOMAINNET_10 if name not in found.data.features["label"].names]
    if missing:
        raise ValueError(f"domainnet-10: no class {', '.join(missing)} in this copy of DomainNet")
    return with_classes(found, {name: name for name in DOMAINNET_10})


def read_domainnet_10(folder: Path) -> Listing:
    """Those of DomainNet's images that show one of the ten classes."""
    return domainnet_10(read_domainnet(folder))


def read_office_caltech10(folder: Path) -> Listing:
    """10 classes in four domains: a folder per domain and class, no split."""
    return read_folder(folder)


def read_pacs(folder: Path) -> Listing:
    """7 classes in four domains, in `images`, `kfold` or here; its lists hold out whole domains: not used."""
    return read_folder(next((folder / name for name in ("images", "kfold") if (folder / name).is_dir()), folder))


def read_vlcs(folder: Path) -> Listing:
    """5 classes in four domains, with `train`, `crossval` and `test` (and `full`, all of them) or without.

    Classes are numbers in the first of these layouts, and have their names in DomainBed's.
    """
    found = read_folder(folder, skip=("full",))
    names = {str(number): name for number, name in enumerate(VLCS_NAMES)}
    return with_classes(found, names) if set(found.data.features["label"].names) <= set(names) else found


def read_office_home(folder: Path) -> Listing:
    """65 classes in four domains: a folder per domain and class, no split."""
    return read_folder(folder)


def _coop_split(path: Path, images: Path) -> Listing | None:
    """What CoOp's list says: {part: [[image, label, class name], ...]}; None where it isn't there."""
    if not path.is_file():
        return None
    parts = json.loads(path.read_text())
    names: dict[int, str] = {}
    entries = []
    for part in ("train", "test"):
        for image, label, name in parts[part]:
            names.setdefault(int(label), name)
            entries.append(Entry(images / image, int(label), test=part == "test"))
    return listing(entries, _ordered(names, path), split=f"CoOp {path.name}, without its val part")


def _ordered(names: dict[int, str], where: Path) -> list[str]:
    """Class names by label.

    Raises:
        ValueError: a label between the others has no image and so no name.
    """
    missing = set(range(max(names, default=-1) + 1)) - set(names)
    if missing:
        raise ValueError(f"{where}: no image of class {min(missing)}, so its name is not known")
    return [names[label] for label in sorted(names)]


def _from_lists(images: Path, train: Sequence[Path], test: Path, *, split: str = "official") -> Listing:
    """Images named class/image in text lists, with or without ending; classes in alphabetical order."""
    found = [(line, path == test) for path in (*train, test) for line in _lines(path)]
    names = sorted({line.split("/")[0] for line, _ in found})
    labels = {name: label for label, name in enumerate(names)}
    entries = [
        Entry(
            images / (line if line.endswith(".jpg") else f"{line}.jpg"),
            labels[line.split("/")[0]],
            test=held_out,
        )
        for line, held_out in found
    ]
    return listing(entries, names, split=split)


def _lines(path: Path) -> list[str]:
    """The lines of a list that are not empty and no comment."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _cifar(folder: Path, train: Sequence[str], test: str, key: str, named: tuple[str, str]) -> Listing:
    """CIFAR's pickles, put once into an Arrow file of PNGs in the cache of `datasets`."""
    names = _unpickle(folder / named[0])[named[1]]
    files = [folder / name for name in (*train, test)]
    counts = [len(_unpickle(file)[key]) for file in files]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    data = Dataset.from_generator(_cifar_images, features=features, gen_kwargs={"stamps": stamps, "key": key})
    return Listing(data, np.repeat([file.name == test for file in files], counts))


def _cifar_images(stamps: Sequence[tuple[str, int, int]], key: str) -> Iterator[dict[str, object]]:
    for file, _, _ in stamps:
        batch = _unpickle(Path(file))
        for values, label in zip(batch["data"], batch[key], strict=True):
            png = io.BytesIO()
            Image.fromarray(values.reshape(3, 32, 32).transpose(1, 2, 0)).save(png, "PNG")
            yield {"image": {"bytes": png.getvalue(), "path": None}, "label": label}


class _Arrays(pickle.Unpickler):
    """Opens pickles of plain values and NumPy arrays, nothing else: others can run any code."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as in the class it extends
        allowed: dict[tuple[str, str], Callable[..., object]] = {
            ("numpy", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]  # noqa: SLF001
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): codecs.encode,
        }
        found = allowed.get((module.partition(".")[0], name))
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name} has no place there")
        return found


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return dict(_Arrays(file, encoding="latin1").load())
    except (pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not one of CIFAR's pickles ({error})") from None
