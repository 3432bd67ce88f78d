"""Server state on disk: one safetensors file, replaced whole after every round."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from common.atomic import replacing
from common.method import Tensors

FILE_NAME = "checkpoint.safetensors"


def save_checkpoint(folder: Path, state: Tensors, *, round_: int, run: str) -> None:
    """Writes the state as it stands after `round_`.

    The state and the round are all there is to resume from: every random choice is drawn from the run's seed and
    what it is for (`common.seeding`), so there is no generator to keep.
    """
    metadata = {"round": str(round_), "run": run}
    with replacing(folder / FILE_NAME) as beside:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, beside, metadata=metadata)


def load_checkpoint(folder: Path, *, run: str) -> tuple[Tensors, int]:
    """The state and the round after which it was saved.

    Raises:
        ValueError: there is no checkpoint, it cannot be read, or it is another run's; one line that names the file.
    """
    path = folder / FILE_NAME
    if not path.exists():
        raise ValueError(f"{path}: no such file, so there is nothing to resume from")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if metadata.get("run") != run:
        raise ValueError(f"{path}: belongs to run {metadata.get('run')}, not to {run}")
    return state, int(metadata["round"])
