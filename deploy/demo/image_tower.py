"""Stage one of the demo CLIP: the image tower, learnt from emoji identity and class.

Cosine heads rather than image-text pairs: contrastive training from scratch crawls on so little data. The
heads' weights are the prototypes that stage two teaches the text tower to say.
"""

import logging
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from rich.progress import track
from torch import Tensor, nn

from deploy.demo.augment import augment
from deploy.demo.pictures import Pictures

logger = logging.getLogger(__name__)

SIDE = 64
SHARPNESS = 16.0  # of the cosine heads while they learn
SMOOTHING = 0.1
CLASS_WEIGHT = 2.0
BATCH = 128
ENCODED_AT_ONCE = 500
PEAK_RATE = 2e-3
WEIGHT_DECAY = 0.05
WARM_UP_STEPS = 300
AVERAGE = 0.999


@dataclass(frozen=True)
class Teacher:
    """What stage one leaves: the tower with averaged weights, and unit prototypes of classes and of names."""

    visual: nn.Module
    classes: Tensor
    names: Tensor


@dataclass(frozen=True)
class Budget:
    """How long stage one may take: so many epochs (the same result every time), or so many minutes."""

    epochs: int
    minutes: float | None = None

    def spent(self, epochs: float, seconds: float) -> float:
        """The part that is used up; 1 or more where nothing is left."""
        return epochs / self.epochs if self.minutes is None else seconds / 60 / self.minutes


class Heads(nn.Module):
    """Prototypes of classes and of names, compared with image features by cosine."""

    def __init__(self, classes: int, names: int, width: int) -> None:
        """Start from random directions."""
        super().__init__()
        self.classes = nn.Parameter(torch.randn(classes, width))
        self.names = nn.Parameter(torch.randn(names, width))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits over classes and over names."""
        unit = F.normalize(features, dim=-1) * SHARPNESS
        return unit @ F.normalize(self.classes, dim=-1).T, unit @ F.normalize(self.names, dim=-1).T


def train(
    visual: nn.Module,
    width: int,
    pictures: Pictures,
    budget: Budget,
    seed: int,
    checkpoint: Path,
    device: str,
) -> Teacher:
    """Train until the budget is spent, on from the checkpoint if there is one; rewrite it every epoch."""
    heads = Heads(len(pictures.class_list), len(pictures.name_list), width)
    both = nn.ModuleDict({"visual": visual, "heads": heads}).to(memory_format=torch.channels_last).to(device)
    optimiser = torch.optim.AdamW(_groups(both), lr=PEAK_RATE)
    average = {name: tensor.detach().clone() for name, tensor in both.state_dict().items()}
    epoch, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        both.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        average, epoch, seconds = saved["average"], saved["epoch"], saved["seconds"]
        logger.info("going on from epoch %d of %s", epoch, checkpoint)
    began = time.monotonic() - seconds
    steps = len(pictures.images) // BATCH
    while budget.spent(epoch, time.monotonic() - began) < 1:
        generator = torch.Generator().manual_seed(seed * 10_000 + epoch)
        order = torch.randperm(len(pictures.images), generator=generator)
        both.train()
        correct = 0
        epoch_batches = batches(pictures, order, generator, device)
        for step, (rows, images) in enumerate(track(epoch_batches, f"epoch {epoch + 1}", total=steps)):
            spent = budget.spent(epoch + step / steps, time.monotonic() - began)
            now = epoch * steps + step
            for group in optimiser.param_groups:
                group["lr"] = _rate(now, spent)
            labels, names = pictures.labels[rows].to(device), pictures.names[rows].to(device)
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                features = visual(images)
            class_logits, name_logits = heads(features.float())
            loss = CLASS_WEIGHT * F.cross_entropy(class_logits, labels, label_smoothing=SMOOTHING)
            loss = loss + F.cross_entropy(name_logits, names, label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(both.parameters(), 5.0)
            optimiser.step()
            _follow(average, both, min(AVERAGE, (1 + now) / (10 + now)))
            correct += int((class_logits.argmax(-1) == labels).sum())
        epoch += 1
        logger.info("epoch %d: %.1f %% of the augmented pictures", epoch, 100 * correct / (steps * BATCH))
        state = {"model": both.state_dict(), "average": average, "optimiser": optimiser.state_dict()}
        _save({**state, "epoch": epoch, "seconds": time.monotonic() - began}, checkpoint)
    both.load_state_dict(average)
    both.eval()
    return Teacher(
        visual=visual,
        classes=F.normalize(heads.classes.detach(), dim=-1),
        names=F.normalize(heads.names.detach(), dim=-1),
    )


def batches(
    pictures: Pictures, order: Tensor, generator: torch.Generator, device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches in that order: their rows, and their augmented images in -1 to 1.

    One thread augments the next batch while this one is learnt from; being one, it draws in a fixed order.
    """

    def prepared(rows: Tensor) -> Tensor:
        images = augment(pictures.images[rows].to(device), generator, SIDE)
        return (images * 2 - 1).to(memory_format=torch.channels_last)

    parts = [part for part in order.split(BATCH) if len(part) == BATCH]
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        coming = pool.submit(prepared, parts[0])
        for rows, following in zip(parts, [*parts[1:], None], strict=True):
            images = coming.result()
            if following is not None:
                coming = pool.submit(prepared, following)
            yield rows, images


@torch.inference_mode()
def encode(visual: nn.Module, images: Tensor, device: str) -> Tensor:
    """Unit features of pictures given as bytes, [N, D]."""
    parts = [
        F.normalize(visual(images[start : start + ENCODED_AT_ONCE].to(device).float() / 127.5 - 1), dim=-1)
        for start in range(0, len(images), ENCODED_AT_ONCE)
    ]
    return torch.cat(parts)


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups of the optimiser: matrices decay, scales and biases don't."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]


def _rate(step: int, spent: float) -> float:
    """The learning rate: a linear start, then half a cosine down to nothing."""
    return PEAK_RATE * min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * min(1.0, spent)))


@torch.no_grad()
def _follow(average: dict[str, Tensor], model: nn.Module, keep: float) -> None:
    """Move the average towards the model's present tensors, in place; counters are copied."""
    pairs = [(average[name], tensor) for name, tensor in model.state_dict().items()]
    floats = [(old, new) for old, new in pairs if old.is_floating_point()]
    torch._foreach_lerp_([old for old, _ in floats], [new for _, new in floats], 1 - keep)
    for old, new in pairs:
        if not old.is_floating_point():
            old.copy_(new)


def _save(state: dict[str, Any], path: Path) -> None:
    """Write beside, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.part")
    torch.save(state, beside)
    os.replace(beside, path)  # noqa: PTH105 - replaces on every system
