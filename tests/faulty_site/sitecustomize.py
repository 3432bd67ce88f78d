"""Makes the ClientApp of a process that has this folder on its path upload what it should not, another thing a round.

Python imports a module of this name at its start; the folder in FAULTY_SITE keeps count of the trainings. The third of
them, and with it round 3, ends no sooner than there is a file named `go` in that folder.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


class Loader(importlib.abc.Loader):
    """Loads `client.train` with its training loop replaced."""

    def __init__(self, real: importlib.abc.Loader) -> None:
        self.real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """As the real one."""
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the real one; then the training ends with a bad prompt."""
        self.real.exec_module(module)
        train = module.train

        def faulty(*arguments: Any, **options: Any) -> object:  # noqa: ANN401
            import dataclasses

            import torch

            outcome = train(*arguments, **options)
            folder = Path(os.environ["FAULTY_SITE"])
            round_ = 1 + len(list(folder.glob("[0-9]*")))
            (folder / str(round_)).touch()
            while round_ == 3 and not (folder / "go").exists():
                time.sleep(0.1)
            context = outcome.tensors["context"]
            faults = (torch.full_like(context, 1e6), torch.full_like(context, torch.nan), context[:1].clone())
            return dataclasses.replace(outcome, tensors=outcome.tensors | {"context": faults[round_ % 3]})

        module.train = faulty


class Finder(importlib.abc.MetaPathFinder):
    """Finds `client.train` where everybody does."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The real one with our loader."""
        if name != "client.train":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            spec.loader = Loader(spec.loader)
        return spec


if "FAULTY_SITE" in os.environ:
    sys.meta_path.insert(0, Finder())
