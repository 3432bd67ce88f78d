"""Run configuration: Flower's flat mapping in, one frozen, closed pydantic model out.

Outside (TOML, command line, Flower) keys are kebab-case and dotted, `prompt.batch-size`; inside they are fields.
Nothing is coerced: "False" is no boolean and true is no 1.
"""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Scalar = bool | int | float | str
Flat = Mapping[str, Scalar]

Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
NonEmpty = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A closed, frozen, strict table of options; kebab-case outside."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        populate_by_name=True,
        alias_generator=lambda name: name.rstrip("_").replace("_", "-"),
    )


class DataOptions(Section):
    """Which images there are and which of them test."""

    name: str = Field("demo", description="a known data set, hf:NAME, a folder of images or a parquet file")
    root: str = Field("", description="folder that holds local copies of data sets")
    classes: str = Field("", description="real sites: file of class names, a line each, if the server has no images")
    shots: int = Field(0, ge=0, description="training images kept per class; 0 keeps all")
    test_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.3, description="share held out for testing where the data set has no test part of its own"
    )
    validation_share: float = Field(
        0.0, ge=0, lt=1, description="share of all images kept out of training to choose a round by"
    )
    broken_share: float = Field(0.01, ge=0, lt=1, description="share of unreadable images that is tolerated")
    views: Literal["fresh"] | Count = Field(
        1, description="1: fixed preprocessing; n: stored random views per image; fresh: a new one every step"
    )
    cache: str = Field("", description="folder for encoded features; empty: ~/.cache/fedmoap")


class PartitionOptions(Section):
    """Who holds what, in a simulated federation."""

    kind: Literal["iid", "pathological", "dirichlet", "domain", "domain-dirichlet", "power"] = Field(
        "domain-dirichlet", description="how images are dealt to clients"
    )
    clients: Count = Field(8, description="number of clients")
    alpha: Positive = Field(0.3, description="Dirichlet concentration; smaller is more uneven")
    unseen: str = Field("", description="domain that no client trains on; one more client only tests on it")

    @property
    def nodes(self) -> int:
        """How many clients there are, the one that only tests included."""
        return self.clients + bool(self.unseen)


class ClipOptions(Section):
    """The frozen CLIP."""

    model: str = Field("demo", description="demo, an open_clip architecture, local-dir:PATH or hf-hub:NAME")
    pretrained: str = Field("", description="open_clip weights tag or checkpoint file")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="CUDA: precision in which images and prompts are encoded"
    )
    graph: bool = Field(default=False, description="CUDA: launch a training step at once, as a captured graph")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")


class FederationOptions(Section):
    """Sampling of clients, and what makes a round valid."""

    sites: int = Field(0, ge=0, description="real sites that must be there; 0: the federation is simulated")
    participation: Share = Field(1.0, description="share of clients that trains in a round")
    sampling: Literal["uniform", "one-per-domain"] = Field("uniform", description="how they are chosen")
    newcomers: int = Field(0, ge=0, description="clients that never train, and join after the last round")
    required_share: Share = Field(0.5, description="share of the chosen that must answer for a round to count")
    attempts: Count = Field(3, description="times a round is tried before the run fails")
    timeout: Positive = Field(3600.0, description="seconds to wait for the answers of one round")
    evaluate_every: Count = Field(1, description="rounds between evaluations; the last one always is")
    norm_bound: Positive = Field(1000.0, description="largest L2 norm of an uploaded tensor")
    clients_wait: Positive = Field(300.0, description="seconds to wait for all clients to be there")


class PromptOptions(Section):
    """Local training of a prompt, shared by coop, promptfl, fedprox and pfedmoap."""

    context_tokens: Count = Field(16, description="M, learned context tokens")
    epochs: Count = Field(5, description="local epochs a round")
    batch_size: Count = Field(32, description="images a step")
    lr: Positive = Field(0.002, description="learning rate of the prompt, cosine decay over the local epochs")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="SGD momentum")
    weight_decay: NonNegative = Field(5e-4, description="SGD weight decay")
    warmup_epochs: int = Field(0, ge=0, description="first epochs at learning rate 1e-5")


class RunConfig(Section):
    """Everything that decides a run's result; the methods add a section each (`common.methods`)."""

    method: str = Field("pfedmoap", description="the federated method")
    rounds: Count = Field(10, description="rounds of training")
    seed: int = Field(0, ge=0, description="decides data split, partition, sampling, initialisation and batches")
    out: str = Field("", description="folder for the record and the checkpoint; empty: runs/METHOD-seedN")
    resume: bool = Field(default=False, description="go on from the checkpoint in `out`")
    data: DataOptions = DataOptions()
    partition: PartitionOptions = PartitionOptions()
    clip: ClipOptions = ClipOptions()
    federation: FederationOptions = FederationOptions()
    prompt: PromptOptions = PromptOptions()

    @property
    def nodes(self) -> int:
        """How many clients there are, real or simulated, those that only test included."""
        return self.federation.sites or self.partition.nodes

    def placed(self) -> "RunConfig":
        """The same run with `out` as an absolute folder: runs/METHOD-seedN where none was named."""
        folder = Path(self.out or f"runs/{self.method}-seed{self.seed}").expanduser().absolute()
        return self.model_copy(update={"out": str(folder)})

    @model_validator(mode="after")
    def _warmup_fits(self) -> "RunConfig":
        if self.prompt.warmup_epochs >= self.prompt.epochs:
            raise ValueError(
                f"prompt.warmup-epochs = {self.prompt.warmup_epochs}: must be smaller than "
                f"prompt.epochs = {self.prompt.epochs}"
            )
        return self

    def flat(self) -> dict[str, Scalar]:
        """Dotted kebab-case keys to values: what travels in messages and stands in pyproject.toml."""
        return dict(_flatten(self.model_dump(by_alias=True)))


def _flatten(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, Scalar):
            yield f"{prefix}{key}", value
        else:
            raise TypeError(f"{prefix}{key}: {type(value).__name__} is not a bool, int, float or string")


def flatten(tree: Mapping[str, object]) -> dict[str, Scalar]:
    """A nested table, as TOML gives it, with dotted keys.

    Raises:
        TypeError: a value is not a bool, int, float or string; names its key.
    """
    return dict(_flatten(tree))


def nearest(given: str, allowed: list[str]) -> str:
    """`, did you mean 'x'?`, or nothing where no allowed word is near."""
    near = difflib.get_close_matches(given, allowed, n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else ""


Config = TypeVar("Config", bound=RunConfig)


def parse(model: type[Config], flat: Flat) -> Config:
    """The configuration that a flat mapping states; what it leaves out has its default.

    Raises:
        ValueError: one line with every offending key, what was given, what is allowed and the nearest right key.
    """
    known = model().flat()
    unknown = [f"unknown key {key!r}{nearest(key, list(known))}" for key in flat if key not in known]
    if unknown:
        raise ValueError("; ".join(unknown))
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        table = nested
        for section in sections:
            table = table.setdefault(section, {})
        # TOML and the command line write 1 for 1.0; nothing else is converted
        is_whole = isinstance(known[key], float) and type(value) is int
        table[last] = float(value) if is_whole else value
    try:
        return model.model_validate(nested)
    except ValidationError as error:
        raise ValueError("; ".join(_complaints(error, known))) from None


def _complaints(error: ValidationError, known: Flat) -> Iterator[str]:
    """One line a key; where a key allows several types, what each of them asks."""
    asked: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        dotted = [".".join(str(part) for part in item["loc"][: n + 1]) for n in range(len(item["loc"]))]
        key = next((name for name in dotted if name in known), "")
        message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
        asked.setdefault(f"{key} = {item['input']!r}: " if key else "", []).append(message)
    for given, messages in asked.items():
        yield given + ", or ".join(messages)
