"""From process start to the first training step: the whole model opened, or the text side alone."""

import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file

from common.clip import load_clip
from deploy.bench.measure import Result, machine
from deploy.bench.setting import Setting

PROGRAM = """
import sys
import time
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[1]))
from common.clip import Facts, FrozenClip, load_clip
from common.config import PromptOptions
from common.method import Local, prompt_schedule
from common.prompt import PromptLearner
from common.tokens import Tokens
started, name, pretrained, cache, classes, device = sys.argv[2:]
if cache:
    clip = load_clip(name, pretrained, cache=Path(cache), device=device)
else:
    from common.openclip import read_text_side
    from common.pretrained import open_clip_model, tokenizer_of
    model = open_clip_model(name, pretrained, seed=None)[0].eval().requires_grad_(False).to(device)
    text, tokenizer = read_text_side(model), tokenizer_of(name)
    width, dimension = text.weights["token"].shape[1], text.weights["projection.weight"].shape[0]
    facts = Facts("", model.logit_scale.exp().item(), dimension, width, model.context_length, 0, "float32")
    tokens = Tokens(lambda: tokenizer, model.context_length)
    clip = FrozenClip(facts, tokens, torch.device(device), lambda: text, lambda: None)
names = tuple(f"class number {i}" for i in range(int(classes)))
options = PromptOptions()
context = torch.zeros(options.context_tokens, clip.context_width)
learner = PromptLearner(Local(clip, names, (), None, {"context": context}, seed=0, training=True), options)
step = prompt_schedule(options).optimiser(learner)
features = torch.ones(options.batch_size, clip.embed_dim, device=device)
learner.loss(features, torch.zeros(len(features), dtype=torch.long, device=device)).backward()
step(0)
print(time.time() - float(started), learner.context.double().norm().item())
"""
"""What both kinds of process do; without a cache folder the whole model is opened, as open_clip does it."""


def startup(setting: Setting, repeat: int) -> Result:
    """Processes of both kinds in turn, each from its start to the end of its first step.

    By the clock, since reading files is part of it. Random weights are written to a checkpoint first: making them
    is no part of any start.
    """
    with tempfile.TemporaryDirectory() as folder:
        pretrained = setting.pretrained
        if not pretrained and ":" not in setting.model and setting.model != "demo":
            pretrained = str(Path(folder) / "weights.safetensors")
            save_file(setting.open_clip.state_dict(), pretrained)
        place = str(Path(folder) / "cache")
        common = (setting.model, pretrained, str(setting.classes), setting.device)
        known = load_clip(*common[:2], cache=Path(place))  # what the cache holds before a message comes
        names = [f"class number {i}" for i in range(setting.classes)]
        known.tokens.rows([f"{name}." for name in names])
        turns = [(_seconds("", *common), _seconds(place, *common)) for _ in range(repeat)]
    (slow, moved), (fast, moved_too) = (zip(*way, strict=True) for way in zip(*turns, strict=True))
    ratios = tuple(a / b for a, b in zip(slow, fast, strict=True))
    return Result(
        name="startup",
        settings=asdict(setting),
        obvious_seconds=median(slow),
        ours_seconds=median(fast),
        ratios=ratios,
        ratio=median(ratios),
        differences={"context after the step": abs(moved[0] - moved_too[0]) / max(abs(moved[0]), 1e-30)},
        obvious_peak=None,
        ours_peak=None,
        share=1.0,
        clock="seconds",
        machine=machine(torch.device(setting.device)),
    )


def _seconds(cache: str, model: str, pretrained: str, classes: str, device: str) -> tuple[float, float]:
    """(seconds from one process's start to the end of its first step, what it computed)."""
    options = [str(torch.get_num_threads()), str(time.time()), model, pretrained, cache, classes, device]
    command = [sys.executable, "-c", PROGRAM, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - the program above
    elapsed, moved = map(float, done.stdout.split())
    return elapsed, moved
