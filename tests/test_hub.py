"""Data sets that are neither on the disk nor, perhaps, within reach; copies on the hub."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from common.sources import SOURCES
from tests.folders import load, pixels

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that is allowed to be asked but does not answer."""
    monkeypatch.setattr("common.sources._reachable", lambda: False)
    for module in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", False)


def test_unknown_name(tmp_path: Path) -> None:
    """An unknown data set costs one line with the nearest known name."""
    with pytest.raises(ValueError, match=r"data\.name = 'oxford-pet': .* did you mean 'oxford-pets'") as caught:
        load("oxford-pet", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("out_of_reach")
@pytest.mark.parametrize("name", SOURCES)
def test_absent(name: str, tmp_path: Path) -> None:
    """A known data set that is neither here nor on the hub costs one line: where from, and where to."""
    with pytest.raises(ValueError, match="get it from https://") as caught:
        load(name, tmp_path, root=str(tmp_path))
    assert f"unpack it to {tmp_path / SOURCES[name].folders[0]}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("out_of_reach")
def test_hub_out_of_reach(tmp_path: Path) -> None:
    """A hub data set without network or cache costs one line at once."""
    with pytest.raises(ValueError, match=r"hf:someone/pictures: .*Hugging Face hub") as caught:
        load("hf:someone/pictures", tmp_path)
    assert "\n" not in str(caught.value)


def test_hub_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub data set's test part is kept, its other parts left out, and its columns understood."""
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["a", "b"])})
    parts = {
        part: datasets.Dataset.from_dict(
            {"img": [pixels(base, n) for n in range(4)], "fine_label": [0, 1, 0, 1]}, features=features
        )
        for base, part in enumerate(("test", "train", "unsupervised"))
    }
    asked = []
    monkeypatch.setattr("common.sources._reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or datasets.DatasetDict(parts))
    task = load("hf:someone/pictures:small", tmp_path)
    assert asked == [("someone/pictures", "small")]
    assert task.test.tolist() == [False] * 4 + [True] * 4
    assert (np.asarray(task.data[0]["image"]) == np.asarray(pixels(1, 0))).all()


HUB = {  # as the copies' cards had it: parts, label column, its names, domain column; the classes wanted of it
    "caltech101": (("train",), "label", ("Faces", "Faces_easy", "accordion"), "", ("face", "accordion")),
    "oxford-pets": (("train", "test"), "label", ("abyssinian", "american_bulldog"), "", ()),
    "flowers102": (("train", "validation", "test"), "label", ("pink primrose", "colt's foot"), "", ()),
    "food101": (("train", "validation"), "label", ("apple_pie", "baklava"), "", ()),
    "dtd": (("train", "test"), "label", ("banded", "zigzagged"), "", ()),
    "cifar100": (("train", "test"), "fine_label", ("couch", "cra", "crocodile"), "", ("couch", "crab", "crocodile")),
    "domainnet": (("train", "test"), "label", ("bird", "zebra"), "named", ()),
    "pacs": (("train",), "label", ("dog", "elephant"), "string", ()),
    "office-home": (("train",), "label", ("Alarm_Clock", "TV"), "string", ()),
}


@pytest.mark.parametrize("name", HUB)
def test_hub_copy(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's copy, with columns as its card says, comes out under the authors' class names and in its parts."""
    parts, label, names, domain, wanted = HUB[name]
    kinds: dict[str, object] = {"image": datasets.Image(), label: datasets.ClassLabel(names=list(names))}
    if label == "fine_label":
        kinds = {"img": kinds.pop("image"), **kinds, "coarse_label": datasets.ClassLabel(names=["x"])}
    if name == "oxford-pets":
        kinds |= {"image_id": datasets.Value("string"), "label_cat_dog": datasets.ClassLabel(names=["cat", "dog"])}
    if domain:
        named = datasets.ClassLabel(names=["clipart", "sketch"])
        kinds["domain"] = named if domain == "named" else datasets.Value("string")

    def row(part: int, number: int) -> dict[str, object]:
        shade = np.full((4, 4, 3), 40 * part + 3 * number, dtype=np.uint8)
        texts = {"image_id": "x", "domain": ("clipart", "sketch")[number % 2]}
        values = {label: names[number % len(names)], "coarse_label": 0, "label_cat_dog": 0} | texts
        return {key: values.get(key, Image.fromarray(shade)) for key in kinds}

    rows = 4 * len(names)
    copy = {
        part: datasets.Dataset.from_list([row(p, n) for n in range(rows)], features=datasets.Features(kinds))
        for p, part in enumerate(parts)
    }
    monkeypatch.setattr("common.sources._reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(copy))
    task = load(name, tmp_path, root=str(tmp_path))
    assert task.class_names == (wanted or names)
    assert task.domain_names == (("clipart", "sketch") if domain else ())
    if len(parts) > 1:
        tested = np.flatnonzero(task.test).tolist()
        assert len(tested) == rows
        assert {np.asarray(task.data[at]["image"]).max() // 40 for at in tested} == {len(parts) - 1}
