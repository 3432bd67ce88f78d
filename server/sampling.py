"""Which clients train in a round: a function of the seed, the round and the clients' names alone."""

from collections.abc import Mapping
from typing import Literal

import torch

from common.seeding import generator


def sample(
    domains: Mapping[str, str],
    *,
    rule: Literal["uniform", "one-per-domain"],
    participation: float,
    seed: int,
    round_: int,
) -> list[str]:
    """The clients of the round, sorted; `domains` holds every client's domain.

    `uniform` draws the share `participation` of all clients, at least one; `one-per-domain` one client of each domain.
    """
    rng = generator(seed, "sampling", round_)
    if rule == "one-per-domain":
        groups = [[c for c in sorted(domains) if domains[c] == domain] for domain in sorted(set(domains.values()))]
        return sorted(group[int(torch.randint(len(group), (), generator=rng))] for group in groups)
    names = sorted(domains)
    count = max(1, round(participation * len(names)))
    return sorted(names[i] for i in torch.randperm(len(names), generator=rng)[:count].tolist())
