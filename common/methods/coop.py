"""CoOp, local only: Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022, arXiv:2109.01134.

Every client trains its own context on its own images, round after round, and nothing is ever sent: not even
the first context, which each client draws from the run's seed.
"""

from common.config import RunConfig, Section
from common.method import Method, keep_state, prompt_schedule, send_nothing
from common.prompt import PromptLearner, first_context


class Options(Section):
    """Local CoOp has no options beside those of `prompt`."""


def make(config: RunConfig, options: Options) -> Method:
    """Local CoOp: a federated method in which everything is personal."""
    del options
    return Method(
        name="coop",
        source="Zhou et al. 2022, arXiv:2109.01134",
        first=lambda sizes, seed: first_context(sizes, seed, config.prompt),
        learner=lambda local: PromptLearner(local, config.prompt),
        schedule=prompt_schedule(config.prompt),
        downlink=send_nothing,
        aggregate=keep_state,
        personal=frozenset({"context"}),
        kept=frozenset({"context"}),
    )
