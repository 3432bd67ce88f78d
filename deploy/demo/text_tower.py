"""Stage two of the demo CLIP: the text tower, taught what the image tower's prototypes are called.

The image tower is fixed by now. A caption of a class is drawn to that class's prototype, one that names a
style also to the mean of the class's pictures in that style, and a caption of a single emoji to that emoji's
prototype.
"""

import logging
import math
from typing import Any

import open_clip
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from rich.progress import track
from torch import Tensor

from deploy.demo.augment import augment
from deploy.demo.captions import STYLES, Caption, class_captions, name_captions, style_rows
from deploy.demo.image_tower import ENCODED_AT_ONCE, SHARPNESS, SIDE, Teacher, encode
from deploy.demo.pictures import Pictures

logger = logging.getLogger(__name__)

BATCH = 96  # captions of classes, and as many of names
PEAK_RATE = 2e-3
WEIGHT_DECAY = 0.02
WARM_UP_STEPS = 50
CLASS_WEIGHT = 2.0
PULL = 4.0  # weight of the cosine distance beside the cross-entropy
CALIBRATION_PICTURES = 4000
FEATURE_LENGTH = 10.0


def train(
    model: Any,  # noqa: ANN401 - open_clip has no types
    teacher: Teacher,
    pictures: Pictures,
    steps: int,
    seed: int,
    device: str,
) -> None:
    """Train the text side of an open_clip CLIP in place, then set its logit scale.

    Rows of the token embedding that no caption uses become zero, so that the file compresses well.
    """
    model.to(device)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=model.context_length)
    classes, names = class_captions(pictures), name_captions(pictures)
    class_tokens, name_tokens = (tokenizer([one.text for one in some]).to(device) for some in (classes, names))
    targets = class_targets(classes, teacher, pictures, device)
    class_numbers, name_numbers = (torch.tensor([one.number for one in some]).to(device) for some in (classes, names))
    with torch.no_grad():
        used = torch.zeros(len(model.token_embedding.weight), 1, device=device)
        used[torch.cat([class_tokens, name_tokens])] = 1
        model.token_embedding.weight.mul_(used)
    learnt = [parameter for name, parameter in model.named_parameters() if not name.startswith(("visual", "logit"))]
    optimiser = torch.optim.AdamW(learnt, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for step in track(range(steps), "text tower"):
        rate = PEAK_RATE * min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(classes), (BATCH,), generator=generator).to(device)
        others = torch.randint(len(names), (BATCH,), generator=generator).to(device)
        text = encode_text(model, torch.cat([class_tokens[rows], name_tokens[others]]))
        numbers = name_numbers[others]
        loss = CLASS_WEIGHT * _taught(text[:BATCH], targets[rows], teacher.classes, class_numbers[rows])
        loss = loss + _taught(text[BATCH:], teacher.names[numbers], teacher.names, numbers)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
    model.eval()
    calibrate(model, pictures, seed, device)


def class_targets(captions: list[Caption], teacher: Teacher, pictures: Pictures, device: str) -> Tensor:
    """What each class caption is drawn to, unit length, [captions, D]."""
    features = encode(teacher.visual, pictures.images, device)
    labels = pictures.labels.to(device)
    by_style = {"": teacher.classes}
    for style in STYLES:
        rows = style_rows(pictures, style).to(device)
        sums = torch.zeros_like(teacher.classes).index_add_(0, labels[rows], features[rows])
        by_style[style] = F.normalize(teacher.classes + F.normalize(sums, dim=-1), dim=-1)
    return torch.stack([by_style[one.style][one.number] for one in captions])


def encode_text(model: Any, tokens: Tensor) -> Tensor:  # noqa: ANN401
    """Unit text features as open_clip computes them, without the positions behind the longest text."""
    length = int((tokens != 0).sum(-1).max())
    hidden = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    ends = hidden[torch.arange(len(tokens), device=tokens.device), tokens.argmax(-1)]
    return F.normalize(ends @ model.text_projection, dim=-1)


@torch.inference_mode()
def calibrate(model: Any, pictures: Pictures, seed: int, device: str) -> None:  # noqa: ANN401
    """Set the logit scale at which augmented pretraining pictures are most likely zero-shot, and the features' length.

    Image features get a mean length of 10, about what released CLIPs have: no cosine depends on it, but FedCLIP's
    adapter and FedAPT's network see un-normalised features.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(pictures.images), generator=generator)[:CALIBRATION_PICTURES]
    parts = []
    for start in range(0, len(rows), ENCODED_AT_ONCE):
        chosen = pictures.images[rows[start : start + ENCODED_AT_ONCE]].to(device)
        parts.append(model.visual(augment(chosen, generator, SIDE) * 2 - 1))
    factor = FEATURE_LENGTH / torch.cat(parts).norm(dim=-1).mean()
    for parameter in model.visual.attnpool.c_proj.parameters():
        parameter.mul_(factor)
    features = F.normalize(torch.cat(parts), dim=-1)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=model.context_length)
    texts = tokenizer([f"a photo of a {name}." for name in pictures.class_list]).to(device)
    cosines = features @ model.encode_text(texts, normalize=True).T
    labels = pictures.labels[rows].to(device)
    scales = [2.0 ** (step / 8) for step in range(16, 57)]  # 4 to 128
    losses = [F.cross_entropy(scale * cosines, labels).item() for scale in scales]
    best = scales[losses.index(min(losses))]
    model.logit_scale.fill_(math.log(best))
    correct = (cosines.argmax(-1) == labels).double().mean().item()
    logger.info("logit scale %.1f; zero-shot on augmented pretraining pictures %.1f %%", best, 100 * correct)


def _taught(text: Tensor, targets: Tensor, prototypes: Tensor, numbers: Tensor) -> Tensor:
    """Cross-entropy over the prototypes, and cosine distance to the targets."""
    apart = 1 - (text * targets).sum(-1).mean()
    return F.cross_entropy(SHARPNESS * text @ prototypes.T, numbers) + PULL * apart
