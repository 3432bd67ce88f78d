"""What is measured: each case makes the obvious way and ours for the same model, classes and data."""

import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from torch import Tensor, nn

from common.config import PromptOptions
from common.features import image_features
from common.method import Learner, Local, Schedule, prompt_schedule
from common.methods.pfedmoap import Gate, Mixture
from common.seeding import generator
from common.text import PromptEncoder
from deploy.bench.measure import Case, Way
from deploy.bench.obvious import ObviousMixture, ObviousText, obvious_gate
from deploy.bench.setting import Setting


def text(setting: Setting) -> Case:
    """Text features of all classes under a context, and its gradient."""
    share = setting.share()
    part = setting.names[: round(share * setting.classes)]
    context = setting.randn(setting.context_tokens, setting.clip.context_width, purpose="context")
    context = (0.02 * context).requires_grad_()
    weight = setting.randn(setting.classes, setting.clip.embed_dim, purpose="weight")

    def way(encode: Callable[[Tensor], Tensor]) -> Callable[[], Mapping[str, Tensor]]:
        def work() -> Mapping[str, Tensor]:
            with setting.autocast():
                features = encode(context)
            (gradient,) = torch.autograd.grad((features * weight[: len(features)]).sum(), context)
            return {"features": features.detach(), "gradient": gradient}

        return work

    obvious = ObviousText(setting.open_clip, setting.clip, part, setting.context_tokens)
    ours, ours_in_part = (PromptEncoder(setting.clip, names, setting.context_tokens) for names in (setting.names, part))
    return Case(way(obvious), way(ours), share, way(ours_in_part))


def experts(setting: Setting) -> Case:
    """Text features of all classes under every frozen expert's context."""
    shape = (setting.experts, setting.context_tokens, setting.clip.context_width)
    contexts = 0.02 * setting.randn(*shape, purpose="experts")
    obvious = ObviousText(setting.open_clip, setting.clip, setting.names, setting.context_tokens)
    ours = PromptEncoder(setting.clip, setting.names, setting.context_tokens)

    @torch.no_grad()
    def one_by_one() -> Mapping[str, Tensor]:
        with setting.autocast():
            return {"features": torch.stack([obvious(context) for context in contexts])}

    @torch.no_grad()
    def together() -> Mapping[str, Tensor]:
        with setting.autocast():
            return {"features": ours(contexts)}

    return Case(one_by_one, together)


def gate(setting: Setting) -> Case:
    """The gate's logits, and the gradient of its parameters and of the local text features."""
    width = setting.clip.embed_dim
    module = Gate(setting.gate, 0).to(setting.device, setting.compute)
    image_BD = nn.functional.normalize(setting.randn(setting.batch, width, purpose="image"), dim=-1)
    text_ECD = setting.randn(1 + setting.experts, setting.classes, width, purpose="text")
    own_CD, *experts_CD = nn.functional.normalize(text_ECD, dim=-1)
    own_CD.requires_grad_()
    text_KCG = module.pool(torch.stack(experts_CD)).contiguous()
    inputs = [own_CD, *module.parameters()]
    labels = torch.arange(setting.batch, device=setting.device) % setting.classes

    def way(logits: Callable[[], Tensor]) -> Callable[[], Mapping[str, Tensor]]:
        def work() -> Mapping[str, Tensor]:
            with setting.autocast():
                found = logits()
                loss = nn.functional.cross_entropy(100 * found, labels)
            gradients = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, inputs)])
            return {"logits": found.detach(), "gradient": gradients}

        return work

    def obvious() -> Tensor:
        return obvious_gate(module, image_BD, torch.stack((own_CD, *experts_CD), 1))

    def ours() -> Tensor:
        logits: Tensor = module(module.pool(image_BD), torch.cat((module.pool(own_CD)[None], text_KCG)))
        return logits

    return Case(way(obvious), way(ours))


def features(setting: Setting) -> Case:
    """Image features of a batch: through the image tower, or from the cache."""
    clip = setting.clip
    noise = np.random.default_rng(0).integers(0, 255, (setting.batch, 224, 224, 3), dtype=np.uint8)
    images = Dataset.from_dict({"image": [Image.fromarray(pixels) for pixels in noise]})
    images = images.cast_column("image", ImageFeature())
    pixels = torch.stack([clip.preprocess(image) for image in images["image"]])
    rows = torch.arange(setting.batch)
    with tempfile.TemporaryDirectory() as folder:
        stored = image_features(lambda: clip, clip.feature_fingerprint, images, "bench", cache=Path(folder))

    def encode() -> Mapping[str, Tensor]:
        with setting.autocast():
            return {"features": clip.encode_images(pixels)}

    return Case(encode, lambda: {"features": stored[rows, 0].to(setting.device)})


def step(setting: Setting) -> Case:
    """One training step of pFedMoAP with experts: the loss, and the gradients of all that is trained.

    Ours is replayed from a captured graph on CUDA, as `clip.graph` asks for.
    """
    world = _World(setting, setting.batch)
    eager, captured = (resolve_name(f"client.steps:{name}") for name in ("eager", "captured"))

    def way(learner: Learner, inputs: Tensor, gradients: Callable[[Tensor, Tensor], Tensor]) -> Way:
        def work() -> Mapping[str, Tensor]:
            with setting.autocast():
                loss = gradients(inputs, world.labels)
            context, *gate = (parameter.grad for parameter in learner.parameters() if parameter.grad is not None)
            gradient = torch.cat([part.flatten() for part in gate])
            return {"loss": loss, "context gradient": context, "gate gradient": gradient}

        return work

    slow, fast, pixels = world.obvious(), world.ours(), world.pixels.flatten(1)
    replay = lru_cache(maxsize=1)(lambda: captured(fast, world.features, world.labels))  # when first asked for

    def ours(inputs: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = (replay() if labels.is_cuda else eager(fast))(inputs, labels)
        return loss

    return Case(way(slow, pixels, eager(slow)), way(fast, world.features, ours))


def local_round(setting: Setting) -> Case:
    """A client's later round of pFedMoAP: the experts' text features, then all local epochs."""
    world = _World(setting, setting.images)
    train = resolve_name("client.train:train")

    def way(learner: Callable[[], Learner], inputs: Tensor) -> Way:
        def work() -> Mapping[str, Tensor]:
            rng = generator(0, "round")
            with setting.autocast():
                outcome = train(learner(), world.schedule, lambda rows, _: inputs[rows], world.labels, rng)
            context, *gate = (outcome.tensors[name] for name in sorted(outcome.tensors))
            return {"context": context, "gate": torch.cat([part.flatten() for part in gate])}

        return work

    return Case(way(world.obvious, world.pixels.flatten(1)), way(world.ours, world.features))


class _World:
    """One client of pFedMoAP in a later round, with noise for images and prompts."""

    def __init__(self, setting: Setting, images: int) -> None:
        self.setting, self.options = setting, setting.gate
        self.prompt = PromptOptions(context_tokens=setting.context_tokens, batch_size=setting.batch)
        self.schedule: Schedule = prompt_schedule(self.prompt, fixed={"gate": self.options.gate_lr})
        self.pixels = torch.stack([setting.randn(3, *setting.pixels, purpose=f"image {i}") for i in range(images)])
        self.labels = torch.arange(images, device=setting.device) % setting.classes
        with setting.autocast():
            parts = [setting.clip.encode_images(part) for part in torch.split(self.pixels, setting.batch)]
        self.features = torch.cat(parts).float() if setting.dtype == "bfloat16" else torch.cat(parts)
        shape = (setting.context_tokens, setting.clip.context_width)
        tensors = {
            "context": 0.02 * setting.randn(*shape, purpose="context"),
            "experts": 0.02 * setting.randn(setting.experts, *shape, purpose="experts"),
        }
        self.local = Local(setting.clip, setting.names, (), None, tensors, seed=0, training=True)

    def ours(self) -> Mixture:
        """The product's learner, on image features."""
        return Mixture(self.local, self.prompt, self.options)

    def obvious(self) -> ObviousMixture:
        """The same, on pixels, leaving nothing out."""
        return ObviousMixture(self.setting.open_clip, self.local, self.options, self.setting.pixels)


CASES: Mapping[str, Callable[[Setting], Case]] = {
    "text": text,
    "experts": experts,
    "gate": gate,
    "features": features,
    "step": step,
    "round": local_round,
}
