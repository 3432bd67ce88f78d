"""What several tests stand on: a small real data set and a small CLIP on disk, made once in a test run."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import datasets
import open_clip
import pytest
import torch
from hypothesis import settings as hypothesis_settings
from PIL import Image, ImageDraw
from safetensors.torch import save_file

hypothesis_settings.register_profile("shared machine", deadline=None)  # a busy machine fails no property
hypothesis_settings.load_profile("shared machine")

CLASSES = ("circle", "square", "striped_flag")
DOMAINS = ("photo", "sketch")


def draw(name: str, domain: str, number: int) -> Image.Image:
    """A small picture of its class: shape, place and colour depend on the class, the domain and the number."""
    ground, ink = ((250, 250, 240), (30 + 9 * number, 60, 160)) if domain == "photo" else ("white", "black")
    image = Image.new("RGB", (32, 32), ground)
    pen, corner = ImageDraw.Draw(image), 2 + number % 8
    box = (corner, corner, corner + 18, corner + 14)
    if name == "circle":
        pen.ellipse(box, fill=ink)
    elif name == "square":
        pen.rectangle(box, fill=ink)
    else:
        for line in range(corner, corner + 16, 4):
            pen.line((corner, line, corner + 18, line), fill=ink, width=1 + number % 2)
    return image


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 classes in 2 domains, 20 pictures of each."""
    root = tmp_path_factory.mktemp("pictures")
    for domain in DOMAINS:
        for name in CLASSES:
            (root / domain / name).mkdir(parents=True)
            for number in range(20):
                draw(name, domain, number).save(root / domain / name / f"{number:02d}.png")
    return root


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random CLIP, as open_clip keeps one in a local folder."""
    folder = tmp_path_factory.mktemp("clip")
    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
        "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = open_clip.CLIP(**model).state_dict()
    save_file(weights, folder / "open_clip_model.safetensors")
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def settings(pictures: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | int]:
    """The configuration of a small federation of four clients on them."""
    return {
        "data.name": str(pictures),
        "data.cache": str(tmp_path_factory.mktemp("cache")),
        "clip.model": f"local-dir:{clip_folder}",
        "partition.kind": "domain-dirichlet",
        "partition.alpha": 5.0,
        "partition.clients": 4,
        "prompt.context-tokens": 4,
        "prompt.epochs": 2,
        "pfedmoap.gate-width": 16,
        "pfedmoap.experts": 2,
        "rounds": 4,
    }


@pytest.fixture(scope="session")
def quiet_environment() -> dict[str, str]:
    """The environment of the product's own processes: plain output, wide enough for a table."""
    return os.environ | {"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of `datasets` in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
