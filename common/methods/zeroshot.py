"""Zero-shot CLIP: Radford et al., Learning Transferable Visual Models, ICML 2021, arXiv:2103.00020.

Nothing is trained and nothing travels.
"""

from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn

from common.config import RunConfig, Section
from common.method import Learner, Local, Method, keep_state, send_nothing


class Options(Section):
    """Zero-shot CLIP."""

    template: str = Field("a photo of a {class}.", description="the text of a class; holds {class}")

    @field_validator("template")
    @classmethod
    def _names_class(cls, template: str) -> str:
        if "{class}" not in template:
            raise ValueError("must hold {class}")
        return template


def fill(template: str, class_names: tuple[str, ...]) -> list[str]:
    """The text of every class; `_` in class names becomes a space, as in CoOp."""
    return [template.replace("{class}", name.replace("_", " ")) for name in class_names]


class ZeroShot(Learner):
    """Logits s · norm(f) · t_c of one fixed text a class."""

    def __init__(self, local: Local, template: str) -> None:
        super().__init__()
        self.clip = local.clip
        self.texts = fill(template, local.class_names)

    def text(self) -> Float[Tensor, "classes D"]:
        """Text features of the filled template, unit length."""
        return self.clip.encode_texts(self.texts)

    def logits(
        self, features: Float[Tensor, "images D"], text: Float[Tensor, "classes D"]
    ) -> Float[Tensor, "images classes"]:
        """s · norm(f) · t_c."""
        return self.clip.logit_scale * nn.functional.normalize(features, dim=-1) @ text.T


def make(config: RunConfig, options: Options) -> Method:
    """Zero-shot CLIP as a federated method."""
    del config
    return Method(
        name="zeroshot",
        source="Radford et al. 2021, arXiv:2103.00020",
        first=lambda _sizes, _seed: {},
        learner=lambda local: ZeroShot(local, options.template),
        schedule=None,
        downlink=send_nothing,
        shared=lambda _: {},
        aggregate=keep_state,
    )
