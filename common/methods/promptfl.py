"""PromptFL: Guo et al., PromptFL, IEEE TMC 2023, arXiv:2208.11625; FedProx: Li et al., MLSys 2020, arXiv:1812.06127.

One generic context is trained by every client and averaged, weighted by examples. FedProx adds (mu/2)·|P - P_g|²
to the loss, P_g being the context as received; `fedprox` is PromptFL with that term on.
"""

from collections.abc import Mapping

from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from common.config import NonNegative, PromptOptions, RunConfig, Section
from common.method import Local, Method, Tensors, Upload, prompt_schedule, send_to_all, weighted_mean
from common.prompt import PromptLearner, first_context


class Options(Section):
    """PromptFL."""

    mu: NonNegative = Field(0.0, description="weight of FedProx's proximal term; 0 is plain FedAvg")


class ProxOptions(Options):
    """PromptFL with FedProx's proximal term."""

    mu: NonNegative = Field(0.5, description="weight of the proximal term")


class ProximalPromptLearner(PromptLearner):
    """A prompt that is held near the context it was received with."""

    def __init__(self, local: Local, options: PromptOptions, mu: float) -> None:
        super().__init__(local, options)
        self.mu = mu
        self.received = self.context.detach().clone()

    def loss(self, features: Float[Tensor, "images D"], labels: Int[Tensor, "images"]) -> Float[Tensor, ""]:
        """Cross-entropy + (mu/2)·|P - P_g|²."""
        distance = (self.context - self.received).square().sum()
        return super().loss(features, labels) + self.mu / 2 * distance


def _aggregate(state: Tensors, uploads: Mapping[str, Upload]) -> Tensors:
    return state | weighted_mean(uploads)


def make(config: RunConfig, options: Options, name: str = "promptfl") -> Method:
    """PromptFL, or FedProx on it where mu > 0."""

    def learner(local: Local) -> PromptLearner:
        if options.mu:
            return ProximalPromptLearner(local, config.prompt, options.mu)
        return PromptLearner(local, config.prompt)

    return Method(
        name=name,
        source="Guo et al. 2023, arXiv:2208.11625; Li et al. 2020, arXiv:1812.06127",
        first=lambda sizes, seed: first_context(sizes, seed, config.prompt),
        learner=learner,
        schedule=prompt_schedule(config.prompt),
        downlink=send_to_all,
        shared=dict,
        aggregate=_aggregate,
    )
