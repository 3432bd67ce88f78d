"""Makes clip/: a small CLIP for open_clip, pretrained on emoji in styles the demo's clients do not have.

From the file of pretraining domains that `deploy.demo.build_data` writes:

    python -m deploy.demo.pretrain --data build/demo/pretraining.parquet --work build/demo

Stage one trains the image tower, stage two teaches the text tower what the image tower's prototypes are
called. The shipped model had --minutes 24 (which were 24 epochs on two busy CPU cores) and 500 text steps.
A run that was stopped goes on from the last whole epoch in --work. No picture of a federated domain is read.
"""

import argparse
import json
import logging
import os
import zlib
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save as serialise

from deploy.demo import image_tower, text_tower
from deploy.demo.pictures import read

logger = logging.getLogger(__name__)

WIDTH = 128
PREPROCESS = {
    "size": image_tower.SIDE,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
MODEL: dict[str, Any] = {
    "embed_dim": WIDTH,
    "vision_cfg": {
        "layers": [1, 1, 1, 1],  # CLIP's own ResNet, small: learns this faster than MobileNets do
        "width": 20,
        "image_size": image_tower.SIDE,
    },
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": WIDTH, "heads": 4, "layers": 3},
}


def save(model: torch.nn.Module, folder: Path) -> None:
    """Write the model so that open_clip loads it: each file beside its place first, then renamed.

    Matrices are kept in half precision; scales, biases and running statistics stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach()
        .cpu()
        .to(torch.float16 if tensor.is_floating_point() and tensor.ndim > 1 else tensor.dtype)
        for name, tensor in model.state_dict().items()
    }
    weights, config = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    weights.with_suffix(".part").write_bytes(serialise({name: one.contiguous() for name, one in tensors.items()}))
    settings = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    config.with_suffix(".part").write_text(json.dumps(settings, indent=4) + "\n", encoding="utf-8")
    for path in (weights, config):
        os.replace(path.with_suffix(".part"), path)  # noqa: PTH105 - replaces on every system
    packed = len(zlib.compress(weights.read_bytes()))
    logger.info("%s: %d bytes, %d compressed", weights, weights.stat().st_size, packed)


def main() -> None:
    """Parse the command line, train both towers and write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Parquet file of the pretraining domains")
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint to resume from")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("clip"), help="folder of the model")
    parser.add_argument("--epochs", type=int, default=24, help="of the image tower")
    parser.add_argument("--minutes", type=float, help="of the image tower, instead of --epochs")
    parser.add_argument("--text-steps", type=int, default=500, help="of the text tower")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, beside one that augments")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    pictures = read(options.data)
    model = open_clip.model.CLIP(**MODEL)
    checkpoint = options.work / "image_tower.pt"
    budget = image_tower.Budget(options.epochs, options.minutes)
    teacher = image_tower.train(model.visual, WIDTH, pictures, budget, options.seed, checkpoint, options.device)
    text_tower.train(model, teacher, pictures, options.text_steps, options.seed, options.device)
    save(model, options.out)


if __name__ == "__main__":
    main()
