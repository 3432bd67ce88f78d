import pytest
import torch

from client.train import train
from common.method import Local
from common.methods import make_method, parse_config
from common.openclip import wrap
from common.seeding import generator
from tests.federation import CLASSES
from tests.tiny_clip import TinyTokenizer, tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def outcome(*, graph: bool, bf16: bool = False) -> dict[str, torch.Tensor]:
    """What a client's later round of pFedMoAP leaves, two full batches and a smaller one an epoch."""
    clip = wrap(tiny_model(dtype=torch.float32).to("cuda"), TinyTokenizer(40))
    clip.bf16 = bf16
    method = make_method(parse_config({"prompt.context-tokens": 4, "prompt.batch-size": 8, "pfedmoap.gate-width": 8}))
    rng = generator(0, "cuda")
    tensors = {"context": 0.02 * torch.randn(4, 16, generator=rng), "experts": torch.randn(2, 4, 16, generator=rng)}
    local = Local(clip, CLASSES, (), None, tensors, seed=0, training=True)
    labels = torch.randint(len(CLASSES), (19,), generator=rng).cuda()
    features = torch.randn(19, clip.embed_dim, generator=rng).cuda()
    assert method.schedule is not None
    learner = method.learner(local)
    return train(learner, method.schedule, lambda at, _: features[at], labels, rng, graph=graph).tensors


@pytest.mark.parametrize("bf16", [False, True])
def test_captured_steps_are_the_eager_ones(bf16: bool) -> None:
    """A round whose full batches replay a captured graph ends where the eager round ends."""
    eager, captured = outcome(graph=False, bf16=bf16), outcome(graph=True, bf16=bf16)
    for name, value in eager.items():
        torch.testing.assert_close(captured[name], value, rtol=1e-5, atol=1e-6)


def test_half_precision_trains_nearly_the_same() -> None:
    """A round with texts encoded in bf16 ends within bf16's rounding of the one in fp32."""
    full, half = outcome(graph=False), outcome(graph=False, bf16=True)
    torch.testing.assert_close(half["context"], full["context"], rtol=0.05, atol=0.01)
