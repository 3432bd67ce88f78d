"""pFedMoAP: Luo, Chen, Wu, Mixture of Experts Made Personalized, ICLR 2025, arXiv:2410.10114.

The server keeps every client's last uploaded prompt, before aggregation, in a pool and sends a client the prompts
of other clients nearest to its own as frozen experts. The client trains its own prompt and a gate that mixes the
experts' text features with its own; the gate never leaves it.

Shapes: B images, C classes, E experts with the local one first, K non-local experts, N = E·C, M context tokens,
W their width, D embedding, G gate width, H heads, d = G/H.

Differs from the released code: the K nearest *other* clients are found by L2 distance between prompts in the pool as
it stood before the round (there, the search's result is never used); gate, momentum, schedule and experts of one
client never reach another. Ours where the paper is silent: a client whose gate was never trained classifies by its
own prompt alone, since an untrained gate is noise.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from common.config import Count, NonNegative, Positive, PromptOptions, RunConfig, Section
from common.method import Local, Method, Parcel, Sizes, Tensors, Upload, prompt_schedule, root, weighted_mean
from common.prompt import PromptLearner, first_context
from common.seeding import generator


class Options(Section):
    """pFedMoAP."""

    experts: Count = Field(9, description="K, non-local experts; with fewer other clients all of them are experts")
    choice: Literal["nearest", "random", "all"] = Field("nearest", description="which prompts become experts")
    lambda_: NonNegative = Field(0.5, description="weight of the local logits beside the mixture's")
    gate_width: Count = Field(128, description="G, which must divide the CLIP's embedding width")
    gate_heads: Count = Field(8, description="attention heads of the gate, which must divide its width")
    gate_lr: Positive = Field(0.01, description="learning rate of the gate, constant")
    score_scale: Literal["paper"] | Positive = Field(
        10.0, description="factor on the attention scores; `paper`: 1/sqrt(head width)"
    )


class Gate(nn.Module):
    """Attention of an image over the experts of each class; the same weights for all classes.

    Four biased G x G maps, 66,048 parameters at G = 128; no residual, norm or dropout. `key.bias`, `value.bias` and
    `out.bias` cannot change which class wins: they move all classes' logits alike.
    """

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__()
        self.width, self.heads = options.gate_width, options.gate_heads
        head_width = self.width // self.heads
        self.score_scale = head_width**-0.5 if options.score_scale == "paper" else options.score_scale
        self.query, self.key, self.value, self.out = (nn.Linear(self.width, self.width) for _ in range(4))
        rng, bound = generator(seed, "gate"), self.width**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=rng)

    def pool(self, unit: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead G"]:
        """Every (D/G)-th coordinate of unit features."""
        return unit[..., :: unit.shape[-1] // self.width]

    def forward(
        self, image_BG: Float[Tensor, "images G"], text_ECG: Float[Tensor, "experts classes G"]
    ) -> Float[Tensor, "images classes"]:
        """pool(f) · t_c^MoE of pooled unit features, where t_c^MoE is the attention output after W_o.

        Equal to the attention written out (tests/test_pfedmoap.py), but the output map is applied to the image
        instead of to every (image, class) pair, so that no tensor of images x classes x G is ever made: each image is
        projected once and each (class, expert) once, in matrix products of (experts · classes) columns a head.
        """
        query_HBd = self._by_head(self.query(image_BG) * self.score_scale)
        read_HBd = self._by_head(linear(image_BG, self.out.weight.T))
        key_HNd, value_HNd = (self._by_head(side(text_ECG.flatten(0, 1))) for side in (self.key, self.value))
        score_HBEC = (query_HBd @ key_HNd.mT).unflatten(-1, text_ECG.shape[:2])
        worth_HBEC = (read_HBd @ value_HNd.mT).unflatten(-1, text_ECG.shape[:2])
        mixed_BC: Tensor = (score_HBEC.softmax(-2) * worth_HBEC).sum(-2).sum(0)
        return mixed_BC + (image_BG @ self.out.bias)[:, None]

    def _by_head(self, rows_NG: Float[Tensor, "rows G"]) -> Float[Tensor, "heads rows d"]:
        return rows_NG.reshape(len(rows_NG), self.heads, -1).transpose(0, 1)


class Mixture(PromptLearner):
    """A local prompt and, where there are experts, the gate that mixes them with it."""

    def __init__(self, local: Local, prompt: PromptOptions, options: Options) -> None:
        super().__init__(local, prompt)
        self.lambda_ = options.lambda_
        self.gate: Gate | None = None
        trained = {name.removeprefix("gate."): t for name, t in local.tensors.items() if root(name) == "gate"}
        experts_KMW = local.tensors.get("experts")
        if experts_KMW is None or not (local.training or trained):
            return
        gate = Gate(options, local.seed)
        if trained:
            gate.load_state_dict(trained)
        self.gate = gate.to(self.context.device, self.context.dtype)
        with torch.no_grad():
            self.expert_text_KCG = gate.pool(self.encode(experts_KMW.to(self.context.device))).contiguous()

    def logits(
        self, features: Float[Tensor, "images D"], text: Float[Tensor, "classes D"]
    ) -> Float[Tensor, "images classes"]:
        """s·pool(f)·t_c^MoE + λ·s·norm(f)·t_c; without experts s·norm(f)·t_c, with weight 1."""
        own_BC = super().logits(features, text)
        if self.gate is None:
            return own_BC
        text_ECG = torch.cat([self.gate.pool(text)[None], self.expert_text_KCG])
        mixed_BC: Tensor = self.gate(self.gate.pool(normalize(features, dim=-1)), text_ECG)
        return self.scale * mixed_BC + self.lambda_ * own_BC


def nearest_others(pool_NF: Float[Tensor, "entries F"], own: Sequence[int], count: int) -> list[list[int]]:
    """For each pool entry in `own`, the `count` nearest other entries by L2 distance, nearest first.

    One matrix operation for all of them; ties go to the lower index; all others where there are fewer than `count`.
    """
    pool_NF = pool_NF.double()
    distance_SN = torch.cdist(pool_NF[list(own)], pool_NF, compute_mode="donot_use_mm_for_euclid_dist")
    distance_SN[torch.arange(len(own)), list(own)] = torch.inf
    order_SN = distance_SN.sort(dim=-1, stable=True).indices
    return [row[: min(count, len(pool_NF) - 1)] for row in order_SN.tolist()]


def choose_experts(
    pool: Tensors, clients: Sequence[str], options: Options, *, round_: int, seed: int
) -> dict[str, list[str]]:
    """Whose prompts each client receives, by client; a client without a pool entry receives none."""
    names = sorted(pool)
    trained = [client for client in clients if client in pool]
    if options.choice == "nearest" and trained:
        pool_NF = torch.stack([pool[name].flatten() for name in names])
        rows = nearest_others(pool_NF, [names.index(client) for client in trained], options.experts)
        chosen = {client: [names[i] for i in row] for client, row in zip(trained, rows, strict=True)}
    else:
        chosen = {client: [name for name in names if name != client] for client in trained}
        if options.choice == "random":
            for client, others in chosen.items():
                order = torch.randperm(len(others), generator=generator(seed, "experts", round_, client))
                chosen[client] = [others[i] for i in order[: options.experts].tolist()]
    return {client: chosen.get(client, []) for client in clients}


POOL = "pool."
"""State: `context`, the global prompt P_g [M, W], and `pool.NAME`, each trained client's last upload [M, W]."""


def make(config: RunConfig, options: Options) -> Method:
    """pFedMoAP as a federated method."""

    def first(sizes: Sizes, seed: int) -> Tensors:
        if sizes.embed_dim % options.gate_width:
            raise ValueError(
                f"pfedmoap.gate-width = {options.gate_width}: must divide the CLIP's embedding width {sizes.embed_dim}"
            )
        if options.gate_width % options.gate_heads:
            raise ValueError(
                f"pfedmoap.gate-heads = {options.gate_heads}: must divide pfedmoap.gate-width = {options.gate_width}"
            )
        return first_context(sizes, seed, config.prompt)

    def downlink(state: Tensors, clients: Sequence[str], *, round_: int, seed: int) -> dict[str, Parcel]:
        pool = {name.removeprefix(POOL): prompt for name, prompt in state.items() if name.startswith(POOL)}
        parcels = {}
        for client, chosen in choose_experts(pool, clients, options, round_=round_, seed=seed).items():
            experts = {"experts": torch.stack([pool[name] for name in chosen])} if chosen else {}
            parcels[client] = Parcel({"context": state["context"], **experts}, tuple(chosen))
        return parcels

    def welcome(state: Tensors) -> Tensors:
        """The global prompt and, as experts, the K pool entries nearest to it, for lack of an entry of its own.

        Nearest also where `choice` is `random`: a newcomer receives experts once, and no draw would be told from luck.
        """
        pool = [state["context"], *(state[name] for name in sorted(state) if name.startswith(POOL))]
        count = len(pool) if options.choice == "all" else options.experts
        (row,) = nearest_others(torch.stack(pool).flatten(1), [0], count)
        return {"context": state["context"]} | ({"experts": torch.stack([pool[i] for i in row])} if row else {})

    def aggregate(state: Tensors, uploads: Mapping[str, Upload]) -> Tensors:
        entries = {POOL + client: upload.tensors["context"] for client, upload in uploads.items()}
        return state | weighted_mean(uploads) | entries

    return Method(
        name="pfedmoap",
        source="Luo, Chen, Wu 2025, arXiv:2410.10114",
        first=first,
        learner=lambda local: Mixture(local, config.prompt, options),
        schedule=prompt_schedule(config.prompt, fixed={"gate": options.gate_lr}),
        downlink=downlink,
        shared=lambda state: {"context": state["context"]},
        welcome=welcome,
        aggregate=aggregate,
        personal=frozenset({"gate"}),
        kept=frozenset({"gate", "context"}),
    )
