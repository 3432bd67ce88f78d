"""open_clip models by name, and one clear line where there is none of that name."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import PickleError
from typing import Any

import open_clip
import torch
from open_clip.pretrained import download_pretrained_from_hf
from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.config import nearest

Model = Any  # open_clip states no types
SCHEMES = ("local-dir:", "hf-hub:")
UNREADABLE = (RuntimeError, ValueError, KeyError, OSError, EOFError, PickleError, SafetensorError)


def open_clip_model(name: str, pretrained: str, *, seed: int | None) -> tuple[Model, list[Path]]:
    """The model of that name, and the files it was read from; random weights from `seed` if there are none.

    Weights that open_clip's table says were trained with QuickGELU are computed with it, whichever variant of
    the architecture is named. Of a checkpoint file that is not known: there the variant (`-quickgelu`)
    decides.

    Raises:
        ValueError: one line that says which name, tag, file or weights are wrong and what there is instead.
    """
    with _quietly():
        if name.startswith(SCHEMES):
            if pretrained:
                raise ValueError(f"{name!r} has its own weights: pretrained = {pretrained!r} has no meaning")
            return _create(name), _files(name)
        name = _slashless(name)
        if name not in (known := open_clip.list_models()):
            raise ValueError(f"open_clip knows no model {name!r}{nearest(name, known)}")
        if not pretrained and seed is not None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                return _create(name, require_pretrained=False), []
        if Path(pretrained).is_file():
            model = _create(name, pretrained)
            _refuse_stretched(model, Path(pretrained))
            return model, [Path(pretrained)]
        tag = _tag(name, pretrained)
        model = _create(name, pretrained, force_quick_gelu=bool(tag.get("quick_gelu")))
        return model, [Path(open_clip.download_pretrained(tag))]


def tokenizer_of(name: str) -> Callable[..., Tensor]:
    """The tokenizer of the model of that name.

    Raises:
        ValueError: it needs a package that is not installed.
    """
    with _quietly():
        try:
            tokenizer: Callable[..., Tensor] = open_clip.get_tokenizer(_slashless(name))
        except ImportError as error:
            raise ValueError(f"the tokenizer of {name!r} needs the package {error.name}") from error
        return tokenizer


def _slashless(name: str) -> str:
    """ViT-B/16, as the papers write it, is ViT-B-16 to open_clip."""
    return name if name.startswith(SCHEMES) else name.replace("/", "-")


def _tag(name: str, pretrained: str) -> Mapping[str, Any]:
    tag: Mapping[str, Any] = open_clip.get_pretrained_cfg(name, pretrained)
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(name)
        wrong = f"there is no file and no tag {pretrained!r} for {name}{nearest(pretrained, tags)}"
        wrong = wrong if pretrained else f"{name} needs weights"
        raise ValueError(f"{wrong}; give a checkpoint file or one of: {', '.join(tags) or '(no tag)'}")
    if open_clip.get_model_config(name).get("quick_gelu") and not tag.get("quick_gelu"):
        raise ValueError(f"{name} computes QuickGELU, but the weights {pretrained!r} were trained with GELU")
    return tag


def _create(name: str, pretrained: str | None = None, **settings: bool) -> Model:
    try:
        return open_clip.create_model(
            name, pretrained, **{"require_pretrained": True, "pretrained_text": False} | settings
        )
    except ImportError as error:
        raise ValueError(f"{name!r} needs the package {error.name}") from error
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        weights = f" with the weights {pretrained!r}" if pretrained else ""
        raise ValueError(f"cannot open {name!r}{weights}: {reason}") from error


def _files(name: str) -> list[Path]:
    """Whatever a `local-dir:` or `hf-hub:` model was read from."""
    scheme, _, place = name.partition(":")
    if scheme == "hf-hub":
        files = (None, "open_clip_config.json")
        return [Path(download_pretrained_from_hf(place, filename=file)) for file in files]
    return [Path(place), *sorted(path for path in Path(place).iterdir() if path.is_file())]


def _refuse_stretched(model: Model, path: Path) -> None:
    """open_clip stretches position embeddings to fit, without a word: that is another architecture."""
    ours = model.state_dict()
    for name, shape in _shapes(path).items():
        key = name.removeprefix("module.")
        if key.endswith("positional_embedding") and key in ours and list(shape) != list(ours[key].shape):
            raise ValueError(f"{path} does not fit: its {key} is {list(shape)}, not {list(ours[key].shape)}")


def _shapes(path: Path) -> dict[str, Sequence[int]]:
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    stored = torch.load(path, map_location="meta", mmap=True, weights_only=True)
    return {name: tensor.shape for name, tensor in stored.get("state_dict", stored).items()}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without open_clip's warnings and logging, all of which is about what is checked here."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
