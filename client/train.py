"""One training loop and one evaluation loop, for every method."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from client.steps import captured, eager
from common.method import Learner, Schedule, Tensors

EVALUATION_BATCH = 1024

Draw = Callable[[Int[Tensor, "batch"], torch.Generator], Float[Tensor, "batch D"]]
"""(positions in the training part, generator) -> their un-normalised features, one view of each."""
Part = tuple[Float[Tensor, "_ D"], Int[Tensor, "_"]]
"""Images to evaluate on: the un-normalised features and the class of each."""


@dataclass(frozen=True)
class Outcome:
    """What local training leaves: the trained tensors, the mean loss over the last epoch, the seconds it took."""

    tensors: Tensors
    loss: float
    seconds: float


def train(
    learner: Learner,
    schedule: Schedule,
    draw: Draw,
    labels: Int[Tensor, "images"],
    rng: torch.Generator,
    *,
    graph: bool = False,
) -> Outcome:
    """Trains the learner in place for the schedule's epochs, with a fresh optimiser.

    `rng` decides the order of the images and the views; the last, smaller batch is used too. `graph`: on CUDA the
    step of full batches is captured once and replayed.
    """
    started = time.monotonic()
    step, gradients = schedule.optimiser(learner), eager(learner)
    learner.train()
    epoch_loss = torch.zeros(())
    for epoch in range(schedule.epochs):
        epoch_loss = torch.zeros((), device=labels.device)
        for batch in torch.randperm(len(labels), generator=rng).split(schedule.batch_size):
            features, wanted = draw(batch, rng), labels[batch]
            if graph and labels.is_cuda and len(batch) == schedule.batch_size:
                gradients, graph = captured(learner, features, wanted), False
            epoch_loss += gradients(features, wanted) * len(batch)
            step(epoch)
    trained = {name: parameter.detach().cpu() for name, parameter in learner.named_parameters()}
    return Outcome(trained, epoch_loss.item() / len(labels), time.monotonic() - started)


@torch.no_grad()
def evaluate(learner: Learner, *parts: Part) -> list[tuple[int, float]]:
    """(correct, summed cross-entropy) over the images of each part; text features are computed once for all."""
    learner.eval()
    text = learner.text()
    found = []
    for features, labels in parts:
        correct, loss = 0, 0.0
        for batch in torch.arange(len(labels)).split(EVALUATION_BATCH) if len(labels) else ():
            logits = learner.logits(features[batch].to(labels.device), text)
            correct += int((logits.argmax(-1) == labels[batch]).sum())
            loss += torch.nn.functional.cross_entropy(logits.float(), labels[batch], reduction="sum").item()
        found.append((correct, loss))
    return found
