"""The data sets known by name: where a copy lies, where the authors and the hub have it, how it is read."""

import importlib.resources
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import datasets
import huggingface_hub

from common import layouts
from common.config import nearest
from common.listing import Listing, from_parts, holds_table, read_folder, read_table

PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class Source:
    """A known data set."""

    title: str
    folders: tuple[str, ...]
    """Names that its folder has under the root; the first is where to put it. The root itself may be it."""
    signs: tuple[str, ...]
    """Paths in that folder of which one must exist."""
    read: Callable[[Path], Listing]
    page: str
    """Where its authors have it."""
    hub: str = ""
    """Its well-kept name on the Hugging Face hub, if there is one."""
    tidy: Callable[[Listing], Listing] | None = None
    """What is to be done to the hub's copy for the same classes and names."""


_DOMAINNET = ("domainnet", "DomainNet", "domain_net")
_DOMAINNET_PAGE = "https://ai.bu.edu/M3SDA/"

SOURCES = {
    "caltech101": Source(
        "Caltech101",
        ("caltech-101", "caltech101"),
        ("101_ObjectCategories",),
        layouts.read_caltech101,
        "https://data.caltech.edu/records/mzrjq-6wc02",
        "flwrlabs/caltech101",
        layouts.caltech_classes,
    ),
    "oxford-pets": Source(
        "OxfordPets",
        ("oxford_pets", "oxford-iiit-pet"),
        ("annotations/trainval.txt", "split_zhou_OxfordPets.json"),
        layouts.read_oxford_pets,
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        "timm/oxford-iiit-pet",
    ),
    "flowers102": Source(
        "Flowers102",
        ("oxford_flowers", "flowers-102"),
        ("imagelabels.mat", "split_zhou_OxfordFlowers.json"),
        layouts.read_flowers102,
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        "dpdl-benchmark/oxford_flowers102",
    ),
    "food101": Source(
        "Food101",
        ("food-101",),
        ("meta/train.txt", "split_zhou_Food101.json"),
        layouts.read_food101,
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        "ethz/food101",
    ),
    "dtd": Source(
        "DTD",
        ("dtd", "dtd/dtd"),
        ("labels/train1.txt", "split_zhou_DescribableTextures.json"),
        layouts.read_dtd,
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        "tanganke/dtd",
    ),
    "cifar10": Source(
        "CIFAR-10",
        ("cifar-10-batches-py", "cifar10/cifar-10-batches-py"),
        ("data_batch_1",),
        layouts.read_cifar10,
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "uoft-cs/cifar10",
    ),
    "cifar100": Source(
        "CIFAR-100",
        ("cifar-100-python", "cifar100/cifar-100-python"),
        ("meta",),
        layouts.read_cifar100,
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "uoft-cs/cifar100",
        layouts.cifar100_classes,
    ),
    "domainnet": Source(
        "DomainNet, 345 classes",
        _DOMAINNET,
        ("clipart",),
        layouts.read_domainnet,
        _DOMAINNET_PAGE,
        "wltjr1007/DomainNet",
    ),
    "domainnet-10": Source(
        "DomainNet, 10 classes",
        _DOMAINNET,
        ("clipart",),
        layouts.read_domainnet_10,
        _DOMAINNET_PAGE,
        "wltjr1007/DomainNet",
        layouts.domainnet_10,
    ),
    "office-caltech10": Source(
        "Office-Caltech10",
        (
            "office_caltech10",
            "office_caltech_10",
            "Office_Caltech_DA_Dataset-main",
            "Office_Caltech_DA_Dataset",
        ),
        ("dslr",),
        layouts.read_office_caltech10,
        "https://github.com/ChristophRaab/Office_Caltech_DA_Dataset",
    ),
    "pacs": Source(
        "PACS",
        ("pacs", "PACS"),
        ("images/art_painting", "kfold/art_painting", "art_painting"),
        layouts.read_pacs,
        "https://dali-dl.github.io/project_iccv2017.html",
        "flwrlabs/pacs",
    ),
    "vlcs": Source(
        "VLCS",
        ("VLCS", "vlcs"),
        ("LABELME", "LabelMe"),
        layouts.read_vlcs,
        "https://github.com/belaalb/G2DM#download-vlcs",
    ),
    "office-home": Source(
        "Office-Home",
        ("OfficeHomeDataset_10072016", "office_home", "OfficeHome", "office_home_dg"),
        ("Clipart", "clipart"),
        layouts.read_office_home,
        "https://www.hemanthdv.org/officeHomeDataset.html",
        "flwrlabs/office-home",
    ),
}


def find(name: str, root: str = "") -> Listing:
    """The data set of that name, found where `common.data.load_task` says.

    Raises:
        ValueError: no such data set, with the nearest known name; a known one that is neither under the root
            nor on the hub, with where to get it and where to put it; a hub set without images or class names.
    """
    if name == "demo":
        demo = importlib.resources.files("deploy.demo").joinpath("emoji.parquet")
        with importlib.resources.as_file(demo) as path:
            return read_table(path)
    if name.startswith("hf:"):
        return _from_hub(name.removeprefix("hf:"), f"{name}: not in the cache of downloads")
    if name in SOURCES:
        return _known(name, SOURCES[name], root)
    path = Path(name).expanduser()
    if path.exists():
        return read_table(path) if holds_table(path) else read_folder(path)
    known = ["demo", *SOURCES]
    raise ValueError(
        f"data.name = {name!r}: no such folder or file, and no known data set{nearest(name, known)}; known: "
        f"{', '.join(known)}, hf:NAME"
    )


def _known(name: str, source: Source, root: str) -> Listing:
    where = Path(root).expanduser()
    if root:
        for folder in (*(where / name for name in source.folders), where):
            if any((folder / sign).exists() for sign in source.signs):
                return source.read(folder)
    place = f"to {where / source.folders[0]}" if root else f"to a folder {source.folders[0]!r} under data.root"
    advice = f"{name}: not under data.root = {root!r}; get it from {source.page} and unpack it {place}"
    if not source.hub:
        raise ValueError(advice)
    found = _from_hub(source.hub, advice)
    return source.tidy(found) if source.tidy else found


def _from_hub(name: str, advice: str) -> Listing:
    """The hub's data set, downloaded with a progress bar or taken from the cache of downloads."""
    if not _reachable():  # at once, instead of five tries of the hub's client; what is cached is still found
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    repository, _, configuration = name.partition(":")
    try:
        parts = datasets.load_dataset(repository, configuration or None)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        fault = " ".join(str(error).split())
        raise ValueError(f"{advice}; nor does the Hugging Face hub give it: {fault}") from None
    return from_parts(parts, f"hf:{name}")


def _reachable() -> bool:
    """Whether the hub answers; a proxy is taken to."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    host = urlsplit(huggingface_hub.constants.ENDPOINT)
    try:
        with socket.create_connection((host.hostname, host.port or 443), PROBE_SECONDS):
            return True
    except OSError:
        return False
