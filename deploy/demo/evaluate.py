"""Prints how well the shipped CLIP does zero-shot on each federated domain: the table of CARD.md.

    python -m deploy.demo.evaluate

Accuracy of "a photo of a {class}." on the held-out emoji, for three seeds of the split. The seeds vary which
30 % of the emoji are held out and nothing else: the model is the same file every time. The last column takes
every emoji.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses

from common.data import Task, load_task

HERE = Path(__file__).parent
TEST_SHARE = 0.3


@torch.inference_mode()
def zero_shot(model_folder: Path, task: Task, template: str) -> np.ndarray:
    """Whether each picture is given its own class, [images] bool, through open_clip alone."""
    source = f"local-dir:{model_folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(source)
    model.eval()
    texts = open_clip.get_tokenizer(source)([template.format(name) for name in task.class_names])
    text_features = model.encode_text(texts, normalize=True)
    images = torch.stack([preprocess(image) for image in task.data["image"]])
    parts = [model.encode_image(images[start : start + 500]) for start in range(0, len(images), 500)]
    given = (F.normalize(torch.cat(parts), dim=-1) @ text_features.T).argmax(-1)
    return np.asarray(given.numpy() == task.column("label"), dtype=bool)


def table(correct: np.ndarray, tasks: dict[int, Task]) -> str:
    """Accuracy in per cent, a line for each domain and a column for each seed of the split, as Markdown."""
    head = ["domain", *(f"seed {seed}" for seed in tasks), "mean", "all emoji"]
    lines = [head, ["---"] * len(head)]
    first = next(iter(tasks.values()))
    for number, domain in enumerate(first.domain_names):
        here = first.column("domain") == number
        scores = [100 * correct[here & task.test].mean() for task in tasks.values()]
        every = 100 * correct[here].mean()
        lines.append([domain, *(f"{score:.1f}" for score in [*scores, np.mean(scores), every])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    """Parse the command line and write the table to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE / "clip")
    parser.add_argument("--data", type=Path, default=HERE / "emoji.parquet")
    parser.add_argument("--template", default="a photo of a {}.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the held-out split")
    options = parser.parse_args()
    tasks = {seed: load_task(str(options.data), seed=seed, test_share=TEST_SHARE) for seed in options.seeds}
    correct = zero_shot(options.model, next(iter(tasks.values())), options.template)
    sys.stdout.write(table(correct, tasks))


if __name__ == "__main__":
    main()
