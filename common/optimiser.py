"""Optimisers made new for every round, over torch's own functions.

The classes of `torch.optim` import torch's compiler when the first is made, about a second that a client which starts
anew with every message would spend each time; the functions beneath them do not, and give the same bits.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam as adam_step
from torch.optim.sgd import sgd as sgd_step

Rate = Callable[[int], float]
"""Epoch of the round, from 0 -> learning rate."""
Step = Callable[[int], None]
"""Epoch -> None: moves the parameters by their `.grad`."""


def constant(rate: float) -> Rate:
    """The same rate in every epoch."""
    return lambda _: rate


def sgd(groups: Sequence[tuple[Sequence[nn.Parameter], Rate]], *, momentum: float, weight_decay: float) -> Step:
    """SGD with momentum; each group of parameters has a learning rate of its own."""
    buffers: list[list[Tensor | None]] = [[None] * len(parameters) for parameters, _ in groups]

    @torch.no_grad()
    def step(epoch: int) -> None:
        for (parameters, rate), buffer in zip(groups, buffers, strict=True):
            sgd_step(
                list(parameters),
                _gradients(parameters),
                buffer,
                lr=rate(epoch),
                momentum=momentum,
                weight_decay=weight_decay,
                dampening=0,
                nesterov=False,
                maximize=False,
            )

    return step


def adam(
    parameters: Sequence[nn.Parameter], *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> Step:
    """Adam with L2 weight decay in the gradient and a constant learning rate."""
    means, squares = ([torch.zeros_like(parameter) for parameter in parameters] for _ in range(2))
    steps = [torch.zeros(()) for _ in parameters]

    @torch.no_grad()
    def step(epoch: int) -> None:
        del epoch
        adam_step(
            list(parameters),
            _gradients(parameters),
            means,
            squares,
            [],
            steps,
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            maximize=False,
        )

    return step


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Each parameter's gradient: zero where the loss does not depend on it."""
    return [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
