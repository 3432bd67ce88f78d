"""Frozen text towers: CLIP's transformer on packed rows, and any other one by its own forward.

On packed rows what all texts share is run once and nothing is padded.

Dimensions: P contexts done in one pass, W width, D embedding. Rows are the context's shared ones, then the
bins.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from common.packing import pack

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,  # QuickGELU(x) = SiLU(1.702 x) / 1.702, the constants folded into the matrices around it
}


Prompts = Any
"""What a text side prepares for itself: `Packed` or `Spliced`."""


@runtime_checkable
class TextSide(Protocol):
    """A text tower, as prompts see it."""

    def prepare(self, tokens: Int[Tensor, "texts length"], head: int, context: int, *, own: bool) -> Prompts:
        """Texts whose `context` tokens after the first `head` hold the place of vectors given later.

        These are one set for all texts, or one set for each text (`own`).
        """
        ...

    def __call__(self, context: Float[Tensor, "P context W"], prompts: Prompts) -> Float[Tensor, "P texts D"]:
        """Unit features of all texts under each of P contexts."""
        ...


@dataclass(frozen=True)
class Packed:
    """All about a set of prompts that no context changes."""

    positions: Float[Tensor, "context W"]
    """Position embedding of each context row."""
    fixed: Float[Tensor, "fixed W"]
    """The embedded rows that are no context."""
    fixed_q: Float[Tensor, "fixed W"]
    """Their queries in the first block."""
    fixed_kv: Float[Tensor, "fixed keyvalue"]
    """Their keys and values in the first block."""
    places: Int[Tensor, "binned"] | None
    """Where each row is among context and fixed rows; None where they are in order already."""
    shared: int
    """Rows before the bins, which all texts see."""
    head: tuple[Float[Tensor, "head keyvalue"], ...]
    """Keys and values, in each block, of what stands before the context."""
    shared_visible: Bool[Tensor, "shared before"]
    visible: Bool[Tensor, "bins 1 rows columns"]
    ends: Int[Tensor, "ends"]
    """The pooled rows, bin after bin, every bin filled up to as many."""
    ends_visible: Bool[Tensor, "bins 1 slots columns"]
    order: Int[Tensor, "texts"]
    """Where each text is among the ends."""


@dataclass(frozen=True, eq=False)
class TextTower:
    """CLIP's causal text transformer; `pool` says at which token a text's feature is read.

    The weights are open_clip's in the shape that `linear` takes, layer scale and QuickGELU's constant folded
    in.
    """

    heads: int
    layers: int
    eps: float
    activation: str
    pool: str
    eos: int
    weights: Mapping[str, Tensor]

    def pooled(self, tokens: Int[Tensor, "texts length"]) -> Int[Tensor, "texts"]:
        """Position of the token whose output is the text's feature: what follows it cannot matter."""
        if self.pool == "last":
            return torch.full((len(tokens),), tokens.shape[1] - 1)
        return (tokens if self.pool == "argmax" else (tokens == self.eos).int()).argmax(-1)

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def prepare(self, tokens: Int[Tensor, "texts length"], head: int, context: int, *, own: bool) -> Packed:
        """The texts packed; `context` tokens after the first `head` hold the place of vectors given later.

        These are one set for all texts, or one set for each text (`own`).

        Raises:
            ValueError: the tokenizer is another model's: a token is unknown, or the end of text comes too early.
        """
        shared = 0 if own else context
        first, pooled = head + shared, self.pooled(tokens)
        if int(tokens.max()) >= len(self.weights["token"]) or int(pooled.min()) < first:
            raise ValueError("the tokenizer is not this model's: it gives unknown tokens, or no end of text")
        packing = pack((pooled + 1 - first).tolist(), first)
        text, position = packing.text.clamp(min=0), packing.offset + first
        open_ = (packing.text >= 0) & (position < head + context)
        fixed = self._embed(tokens[text, position], position)[~open_]
        fixed_q, fixed_kv = self._project(0, fixed)
        places = None
        if own and context:
            places = torch.empty_like(text)
            places[open_] = (text * context + position - head)[open_]
            places[~open_] = torch.arange(len(fixed)) + len(tokens) * context
            places = places.flatten().to(fixed.device)
        bins, rows = packing.text.shape
        ends = packing.ends + (torch.arange(bins) * rows)[:, None] + shared
        seen_by_ends = packing.visible[torch.arange(bins)[:, None], :, packing.ends].transpose(1, 2)
        return Packed(
            positions=self._positions(torch.arange(head, head + context).repeat(len(tokens) if own else 1)),
            fixed=fixed,
            fixed_q=fixed_q,
            fixed_kv=fixed_kv,
            places=places,
            shared=shared,
            head=self._head(tokens[0, :head]),
            shared_visible=torch.ones(shared, first, dtype=torch.bool).tril(head).to(fixed.device),
            visible=packing.visible.to(fixed.device),
            ends=ends.flatten().to(fixed.device),
            ends_visible=seen_by_ends.to(fixed.device),
            order=packing.order.to(fixed.device),
        )

    def __call__(self, context: Float[Tensor, "P context W"], prompts: Packed) -> Float[Tensor, "P texts D"]:
        """Unit features of all texts under each context."""
        context = context.to(prompts.fixed.dtype) + prompts.positions
        visible, ends_visible = (v.repeat(len(context), 1, 1, 1) for v in (prompts.visible, prompts.ends_visible))
        x = _rows(context, prompts.fixed, prompts)
        last = self.layers - 1
        for i in range(last):
            q, kv = self._project(i, x if i else context)
            if i == 0:
                q, kv = _rows(q, prompts.fixed_q, prompts), _rows(kv, prompts.fixed_kv, prompts)
            x = x + self._linear(f"{i}.out", self._look(q, kv, visible, prompts, prompts.head[i]))
            x = x + self._mlp(i, x)
        q, kv = self._project(last, x, prompts.ends)
        seen = self._look(q, kv, ends_visible, prompts, prompts.head[last])
        x = x.index_select(1, prompts.ends.index_select(0, prompts.order))
        x = x + self._linear(f"{last}.out", seen.index_select(1, prompts.order))
        x = self._norm("final", x + self._mlp(last, x))
        x = self._linear("projection", x) if "projection.weight" in self.weights else x
        return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)

    def _look(
        self,
        q: Float[Tensor, "P queries W"],
        kv: Float[Tensor, "P rows keyvalue"],
        visible: Bool[Tensor, "PxB 1 slots columns"],
        packed: Packed,
        head: Float[Tensor, "head keyvalue"],
    ) -> Float[Tensor, "P queries W"]:
        """What each query reads; the shared rows' queries come first, where there are any."""
        (lead, _, width), bins = q.shape, len(packed.visible)
        shared, binned = kv.split([packed.shared, kv.shape[1] - packed.shared], 1)
        shared = torch.cat((head.to(kv.dtype).expand(lead, -1, -1), shared), 1)
        before = shared[:, None].expand(-1, bins, -1, -1)
        kv = torch.cat((before, binned.unflatten(1, (bins, -1))), 2).flatten(0, 1)
        slots = bins * visible.shape[2]
        shared_q, q = q.split([q.shape[1] - slots, slots], 1)
        seen = self._attend(q.reshape(lead * bins, visible.shape[2], width), kv, visible).view(lead, slots, width)
        if not shared_q.shape[1]:
            return seen
        return torch.cat((self._attend(shared_q, shared, packed.shared_visible), seen), 1)

    def _attend(self, q: Tensor, kv: Tensor, visible: Tensor | None) -> Tensor:
        """Multi-head attention of queries [N, rows, W] over keys and values [N, columns, 2W]."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, *kv.chunk(2, -1)))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2).flatten(2)

    def _head(self, tokens: Int[Tensor, "head"]) -> tuple[Tensor, ...]:
        """Keys and values of the tokens before the context, block by block: they see only each other."""
        x = self._embed(tokens, torch.arange(len(tokens)))[None]
        visible = torch.ones(len(tokens), len(tokens), dtype=torch.bool, device=x.device).tril()
        found = []
        for i in range(self.layers):
            q, kv = self._project(i, x)
            found.append(kv[0])
            x = x + self._linear(f"{i}.out", self._attend(q, kv, visible))
            x = x + self._mlp(i, x)
        return tuple(found)

    def settings(self) -> dict[str, str | int | float]:
        """Everything but the weights."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "weights"}

    def to(self, device: str) -> "TextTower":
        """The tower on another device."""
        return replace(self, weights={name: weight.to(device) for name, weight in self.weights.items()})

    def _embed(self, tokens: Int[Tensor, "*rows"], position: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows W"]:
        table = self.weights["token"]
        positions = self._positions(position)
        return table[tokens.to(table.device)].to(positions.dtype) + positions

    def _positions(self, position: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows W"]:
        table = self.weights["position"]
        return table[position.to(table.device)].to(self.weights["0.up.weight"].dtype)

    def _project(self, i: int, x: Tensor, asking: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Queries, of the rows `asking` or of all, and keys with values, of all; apart, for less to be kept."""
        before, width = self._norm(f"{i}.before", x), x.shape[-1]
        q = before if asking is None else before.index_select(1, asking)
        return (
            self._linear(f"{i}.qkv", q, slice(width)),
            self._linear(f"{i}.qkv", before, slice(width, None)),
        )

    def _mlp(self, i: int, x: Tensor) -> Tensor:
        hidden = self._linear(f"{i}.up", self._norm(f"{i}.between", x))
        return self._linear(f"{i}.down", ACTIVATIONS[self.activation](hidden))

    def _linear(self, name: str, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        bias = self.weights.get(f"{name}.bias")
        return F.linear(x, self.weights[f"{name}.weight"][outputs], None if bias is None else bias[outputs])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        bias = self.weights[f"{name}.bias"]
        return F.layer_norm(x.to(weight.dtype), weight.shape, weight, bias, self.eps).to(x.dtype)


def _rows(context: Tensor, fixed: Tensor, packed: Packed) -> Tensor:
    """Context rows [P, context, ...] and fixed ones in the order of the bins."""
    rows = torch.cat((context, fixed.to(context.dtype).expand(len(context), -1, -1)), 1)
    return rows if packed.places is None else rows.index_select(1, packed.places)


@dataclass(frozen=True)
class Spliced:
    """Token ids of texts, `context` of which only hold the place of vectors given later, from `head` on."""

    tokens: Int[Tensor, "texts length"]
    head: int
    context: int


@dataclass(frozen=True, eq=False)
class OwnForward:
    """A text tower run by open_clip itself, on all positions: slow, and right whatever it does."""

    encode: Callable[[Tensor], Tensor]
    embedding: nn.Module

    def prepare(self, tokens: Int[Tensor, "texts length"], head: int, context: int, *, own: bool) -> Spliced:
        """What `__call__` takes; `own` is seen there from the number of vectors."""
        del own
        return Spliced(tokens.to(next(self.embedding.parameters()).device), head, context)

    def __call__(self, context: Float[Tensor, "P context W"], prompts: Spliced) -> Float[Tensor, "P texts D"]:
        """Unit features of all texts under each context."""
        start, stop, texts = prompts.head, prompts.head + prompts.context, len(prompts.tokens)
        features = []
        for one in context:
            vectors = one.view(-1, prompts.context, one.shape[-1]) if prompts.context else one[None]
            vectors = vectors.expand(texts, -1, -1)

            def splice(_module: nn.Module, _tokens: object, row: Tensor, vectors: Tensor = vectors) -> Tensor:
                return torch.cat((row[:, :start], vectors.to(row.dtype), row[:, stop:]), 1)

            hook = self.embedding.register_forward_hook(splice)
            try:
                features.append(self.encode(prompts.tokens))
            finally:
                hook.remove()
        found = torch.stack(features)
        return F.normalize(found.to(torch.promote_types(found.dtype, torch.float32)), dim=-1)
