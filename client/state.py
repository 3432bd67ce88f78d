"""A client's private tensors on its own disk: one file a round of training, readable by its owner alone.

Not in Flower's own client state, which a SuperNode holds in memory and loses when it starts again.

The server says after which round a client is to go on. Training that did not count, because the upload was refused,
the round was repeated or the server fell back to its checkpoint, so leaves no trace in the private tensors either.
"""

import logging
from pathlib import Path

from safetensors.torch import load_file, save_file

from common.atomic import replacing
from common.method import Tensors

logger = logging.getLogger("fedmoap.client")


class PrivateState:
    """The private tensors of one client in one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, round_: int, tensors: Tensors, *, also_keep: int) -> None:
        """Keeps the tensors as they stand after training in `round_`, and those of the round before it that counted.

        Other earlier ones go. Later ones stay: this may be the late end of a round that the others have left behind.
        """
        if not tensors:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(self._path(round_)) as beside:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside)
        for path in self.folder.glob("round-*.safetensors"):
            if path < self._path(round_) and path != self._path(also_keep):
                path.unlink()

    def load(self, round_: int) -> Tensors:
        """The tensors as they stood after training in `round_`; none for round 0, or where the disk lost them."""
        path = self._path(round_)
        if path.exists():
            return load_file(path)
        if round_:
            logger.warning("fedmoap: %s is not there, so the private tensors start anew", path)
        return {}

    def _path(self, round_: int) -> Path:
        return self.folder / f"round-{round_:05d}.safetensors"
