"""Learned contexts to text features, for all classes at once and equal to open_clip's own 77-token path."""

import math
from collections.abc import Sequence
from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor

from common.clip import FrozenClip
from common.tower import Prompts


class PromptEncoder:
    """The prompts `[start] v_1 … v_M [class name] [.] [end]` of all classes, ready for any context v.

    Raises:
        ValueError: there is no class, one has no name, two are the same text, or a name does not fit the CLIP's
            context length beside M context tokens; names the class.

    Source: CoOp (arXiv:2109.01134), section 3.2. Differs: all classes, and all leading dimensions, in one pass.
    """

    def __init__(self, clip: FrozenClip, class_names: Sequence[str], context_tokens: int) -> None:
        self._clip, self._names, self._context_tokens = clip, tuple(class_names), context_tokens
        self._tokens = self._tokenised()

    def __call__(self, context: Float[Tensor, "*lead tokens width"]) -> Float[Tensor, "*lead classes D"]:
        """Unit text features under contexts that all classes share; differentiable in the context alone.

        Raises:
            ValueError: the context is not [..., M, W].
        """
        return self._encode(context, self._shared, 0)

    def encode_class_contexts(
        self, context: Float[Tensor, "*lead classes tokens width"]
    ) -> Float[Tensor, "*lead classes D"]:
        """Unit text features where each class has its own context; differentiable in the context alone.

        Raises:
            ValueError: the context is not [..., C, M, W].
        """
        return self._encode(context, self._own, 1)

    @cached_property
    def _shared(self) -> Prompts:
        return self._clip.text.prepare(self._tokens, self._clip.tokens.head, self._context_tokens, own=False)

    @cached_property
    def _own(self) -> Prompts:
        return self._clip.text.prepare(self._tokens, self._clip.tokens.head, self._context_tokens, own=True)

    def _encode(self, context: Tensor, prompts: Prompts, own: int) -> Tensor:
        inner = (len(self._names),) * own + (self._context_tokens, self._clip.context_width)
        lead = context.shape[: context.ndim - len(inner)]
        if context.shape[len(lead) :] != inner:
            dims = " x ".join(map(str, inner))
            raise ValueError(f"the context is {list(context.shape)}; its last dimensions must be {dims}")
        flat = context.reshape(math.prod(lead), math.prod(inner[:-1]), inner[-1])
        with self._clip.precision():
            features = self._clip.text(flat, prompts)
        return features.view(*lead, len(self._names), self._clip.embed_dim)

    def _tokenised(self) -> Int[Tensor, "classes length"]:
        if not self._names:
            raise ValueError("there is no class to make a prompt for")
        texts = [f"{name.replace('_', ' ')}." for name in self._names]
        if not all(text.strip(" .") for text in texts):
            raise ValueError(f"class {[bool(t.strip(' .')) for t in texts].index(False)} has no name")
        tokens = self._clip.tokens.rows(texts, self._context_tokens)
        first: dict[tuple[int, ...], int] = {}
        for index, row in enumerate(tokens.tolist()):
            if (other := first.setdefault(tuple(row), index)) != index:
                raise ValueError(f"classes {self._names[other]!r} and {self._names[index]!r} are the same text to CLIP")
        return tokens
