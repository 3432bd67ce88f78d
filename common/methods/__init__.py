"""The registry: which methods there are, and the run configuration with a section for each.

Adding a method is one file with `Options` and `make(config, options)`, and a line here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from pydantic import create_model

from common.config import Flat, RunConfig, Section, nearest, parse
from common.method import Method
from common.methods import coop, fedapt, fedclip, pfedmoap, promptfl, zeroshot

_METHODS: dict[str, tuple[type[Section], Callable[[RunConfig, Any], Method]]] = {
    "zeroshot": (zeroshot.Options, zeroshot.make),
    "coop": (coop.Options, coop.make),
    "promptfl": (promptfl.Options, promptfl.make),
    "fedprox": (promptfl.ProxOptions, partial(promptfl.make, name="fedprox")),
    "fedclip": (fedclip.Options, fedclip.make),
    "fedapt": (fedapt.Options, fedapt.make),
    "pfedmoap": (pfedmoap.Options, pfedmoap.make),
}

METHODS = tuple(_METHODS)

_sections: dict[str, Any] = {name: (options, options()) for name, (options, _) in _METHODS.items()}
FullConfig: type[RunConfig] = create_model("FullConfig", __base__=RunConfig, **_sections)


def parse_config(flat: Flat) -> RunConfig:
    """The run configuration that a flat mapping states, with every method's section.

    Raises:
        ValueError: one line that names each offending key or the unknown method, and what is allowed.
    """
    config = parse(FullConfig, flat)
    if config.method not in _METHODS:
        raise ValueError(
            f"method = {config.method!r}: must be one of {', '.join(METHODS)}{nearest(config.method, list(METHODS))}"
        )
    return config


def make_method(config: RunConfig) -> Method:
    """The method that the configuration names, with its options."""
    _, make = _METHODS[config.method]
    return make(config, cast("Section", getattr(config, config.method)))
