"""One training step's loss and gradients: eagerly, or replayed from a captured CUDA graph."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.method import Learner

Gradients = Callable[[Float[Tensor, "images D"], Int[Tensor, "images"]], Float[Tensor, ""]]
"""(features, labels) -> the loss; the parameters' `.grad` is that batch's afterwards."""
WARM_UP = 3


def eager(learner: Learner) -> Gradients:
    """Every operation launched on its own: on any device, for batches of any size."""

    def gradients(features: Tensor, labels: Tensor) -> Tensor:
        learner.zero_grad()
        loss = learner.loss(features, labels)
        loss.backward()
        return loss.detach()

    return gradients


def captured(learner: Learner, features: Float[Tensor, "images D"], labels: Int[Tensor, "images"]) -> Gradients:
    """The eager step of batches of this shape as one CUDA graph, launched at once; other shapes run eagerly.

    On a GPU the small steps of prompt learning are bound by the launches of their kernels. Parameters are read where
    they are, so an optimiser that moves them in place is seen by the next replay.
    """
    eagerly = eager(learner)
    given, wanted = features.clone(), labels.clone()
    aside = torch.cuda.Stream(labels.device)
    aside.wait_stream(torch.cuda.current_stream(labels.device))
    with torch.cuda.stream(aside):  # libraries set themselves up outside the capture
        for _ in range(WARM_UP):
            eagerly(given, wanted)
    torch.cuda.current_stream(labels.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=aside):
        loss = eagerly(given, wanted)
    found = [(parameter, parameter.grad) for parameter in learner.parameters()]

    def gradients(features: Tensor, labels: Tensor) -> Tensor:
        if features.shape != given.shape:
            return eagerly(features, labels)
        given.copy_(features)
        wanted.copy_(labels)
        graph.replay()
        for parameter, gradient in found:
            parameter.grad = gradient
        return loss

    return gradients
