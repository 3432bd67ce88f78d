"""Augmentation of whole batches as tensor code: bytes in, images in 0 to 1 out, white staying white.

Geometry and colour change every image; a random part of the batch is also redrawn in another manner (lines
only, lines over flat colour, black and white, few colours, blurred), so that the tower sees how the same
thing looks when another artist draws it.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
NEARLY_WHITE = 0.97
STYLE_SHARES = {
    "lines": 0.07,
    "inked": 0.07,
    "threshold": 0.07,
    "negative": 0.05,
    "posterise": 0.06,
    "blur": 0.05,
}


def augment(images_bytes: Tensor, generator: torch.Generator, side: int) -> Tensor:
    """The batch, given as bytes, moved, recoloured, partly covered and redrawn, [B, 3, side, side].

    Randomness comes from `generator` (on the CPU) alone, so a seed fixes it whatever the device.
    """
    count = len(images_bytes)
    ink = (255 - images_bytes).float().div_(255)  # white is 0 here, which makes each step below cheaper
    ink = covered_(recoloured(moved(ink, generator, side), generator), generator)
    images = ink.neg_().add_(1)
    order = torch.randperm(count, generator=generator).tolist()
    start = 0
    for style, share in STYLE_SHARES.items():
        stop = start + round(share * count)
        chosen = torch.tensor(order[start:stop], device=images.device, dtype=torch.long)
        if len(chosen):
            images[chosen] = STYLES[style](images[chosen], generator)
        start = stop
    return images


def moved(ink: Tensor, generator: torch.Generator, side: int) -> Tensor:
    """Each image turned, scaled, sheared, shifted and half the time mirrored by a map of its own."""
    count = len(ink)
    turn = _normal(count, generator) * math.radians(10)
    scale = torch.exp(_uniform(count, -0.05, 0.35, generator))
    stretch = torch.exp(_normal(count, generator) * 0.08)
    shear = _normal(count, generator) * 0.1
    mirror = torch.where(_chance(0.5, count, generator), -1.0, 1.0)
    cos, sin = torch.cos(turn) * scale, torch.sin(turn) * scale
    shift_x, shift_y = _uniform(count, -0.12, 0.12, generator), _uniform(count, -0.12, 0.12, generator)
    rows = [cos * stretch * mirror, (shear - sin) * scale, shift_x, sin * mirror, cos / stretch, shift_y]
    maps = torch.stack(rows, dim=1).view(count, 2, 3).to(ink)
    grid = F.affine_grid(maps, [count, 3, side, side], align_corners=False)
    return F.grid_sample(ink, grid, align_corners=False)  # outside the image is no ink


def recoloured(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Channels mixed, strength and curve changed; greys stay grey and white stays white."""
    count = len(ink)
    permuted = torch.stack([torch.eye(3)[torch.randperm(3, generator=generator)] for _ in range(count)])
    mix = torch.where(_chance(0.25, count, generator).view(-1, 1, 1), permuted, torch.eye(3))
    fade = torch.where(
        _chance(0.12, count, generator).view(-1, 1, 1),
        torch.ones(count, 1, 1),
        _uniform(count, -0.5, 0.6, generator).view(-1, 1, 1),
    )
    mix = (1 - fade) * mix + fade * torch.tensor(LUMA).expand(3, 3)
    strength = _uniform(count, 0.55, 1.15, generator).view(-1, 1, 1)
    bend = _uniform(count, -0.5, 0.5, generator).view(-1, 1, 1).to(ink)
    mixed = torch.bmm(mix.to(ink), ink.flatten(2)).clamp_(0, 1)
    curved = mixed.mul(bend).add_(1 - bend).mul_(mixed)  # (1 - bend) ink + bend ink^2
    return curved.mul_(strength.to(ink)).clamp_(0, 1).view_as(ink)


def covered_(ink: Tensor, generator: torch.Generator) -> Tensor:
    """A third of the images lose, in place, one rectangle of up to 40 % of the side."""
    count, _, height, width = ink.shape
    side_x = _uniform(count, 0.1, 0.4, generator) * _chance(0.33, count, generator)
    side_y = _uniform(count, 0.1, 0.4, generator)
    left, top = (
        _uniform(count, 0, 1, generator) * (1 - side_x),
        _uniform(count, 0, 1, generator) * (1 - side_y),
    )
    for number in side_x.nonzero().flatten().tolist():
        x, y = int(left[number] * width), int(top[number] * height)
        ink[
            number,
            :,
            y : y + round(float(side_y[number]) * height),
            x : x + round(float(side_x[number]) * width),
        ] = 0
    return ink


def lines(images: Tensor, generator: torch.Generator) -> Tensor:
    """Black lines on white where the brightness changes."""
    return (1 - _edges(images, generator)).expand(-1, 3, -1, -1)


def inked(images: Tensor, generator: torch.Generator) -> Tensor:
    """Black lines over flattened colours."""
    return posterise(images, generator) * (1 - _edges(images, generator))


def threshold(images: Tensor, generator: torch.Generator) -> Tensor:
    """Black and white: black where the image is darker than a level of its own."""
    level = _uniform(len(images), 0.35, 0.9, generator).view(-1, 1, 1, 1).to(images)
    return torch.sigmoid((_grey(images) - level) * 40).expand(-1, 3, -1, -1)


def negative(images: Tensor, generator: torch.Generator) -> Tensor:
    """Light and dark changed places inside the drawing, in grey; the white around it stays."""
    grey = _grey(images)
    drawn = F.max_pool2d((grey < NEARLY_WHITE).to(images), 5, stride=1, padding=2)
    drawn = -F.max_pool2d(-drawn, 5, stride=1, padding=2)
    steep = _uniform(len(images), 4, 20, generator).view(-1, 1, 1, 1).to(images)
    flipped = torch.sigmoid((0.6 - grey) * steep)
    return (1 - drawn * (1 - flipped)).expand(-1, 3, -1, -1)


def posterise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Two to four steps in each channel."""
    steps = torch.randint(2, 5, (len(images), 1, 1, 1), generator=generator).to(images) - 1
    return (images * steps).round() / steps


def blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """Softened by a mean over three or five pixels, blended with the sharp image."""
    share = _uniform(len(images), 0.4, 1, generator).view(-1, 1, 1, 1).to(images)
    width = int(torch.randint(1, 3, (), generator=generator)) * 2 + 1
    soft = F.avg_pool2d(images, width, stride=1, padding=width // 2, count_include_pad=False)
    return share * soft + (1 - share) * images


STYLES = {
    "lines": lines,
    "inked": inked,
    "threshold": threshold,
    "negative": negative,
    "posterise": posterise,
    "blur": blur,
}


def _edges(images: Tensor, generator: torch.Generator) -> Tensor:
    """How much the brightness changes around each pixel, [B, 1, H, W] in 0 to 1, steep as lines are."""
    grey = _grey(images)
    spread = F.max_pool2d(grey, 3, stride=1, padding=1) + F.max_pool2d(-grey, 3, stride=1, padding=1)
    gain = _uniform(len(images), 2, 6, generator).view(-1, 1, 1, 1).to(images)
    return ((spread - 0.06) * gain).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    return torch.einsum("bchw,c->bhw", images, torch.tensor(LUMA).to(images))[:, None]


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _chance(share: float, count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < share


def _normal(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, generator=generator)
