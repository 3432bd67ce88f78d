"""The ClientApp: a message in, a local training or an evaluation, a message out."""

import functools
import logging
import time
from collections.abc import Callable

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.site import Site, open_site
from client.train import Outcome, evaluate, train
from common import __version__
from common.errors import RunError
from common.method import Learner, Local, Method, Schedule, Sizes, Tensors
from common.methods import make_method, parse_config
from common.seeding import generator
from common.wire import EvaluateReply, Hello, Request, TrainReply, pack, unpack

Handler = Callable[[Message, Context], Message]
app = ClientApp()
logger = logging.getLogger("fedmoap.client")


def learner_of(site: Site, method: Method, request: Request, own: Tensors, *, training: bool) -> Learner:
    """The method's learner at the start of a training or an evaluation.

    Training starts from what the server sent, evaluation uses what the client has of its own; what neither holds
    has its first value, which the seed decides.
    """
    task, clip, seed = site.task, site.clip, site.config.seed
    domains = request.domain_names
    sizes = Sizes(len(task.class_names), len(domains), clip.embed_dim, clip.context_width)
    given = own | request.tensors if training else request.tensors | own
    return method.learner(
        Local(
            clip=clip,
            class_names=task.class_names,
            domain_names=domains,
            domain=domains.index(site.domain) if site.domain in domains else None,
            tensors=method.first(sizes, seed) | given,
            seed=seed,
            training=training,
        )
    )


def _train(learner: Learner, schedule: Schedule, site: Site, rng: torch.Generator) -> Outcome:
    labels = site.labels(site.part.train)
    return train(learner, schedule, site.draw, labels, rng, graph=site.config.clip.graph)


def _open(message: Message, context: Context) -> tuple[Request, Site]:
    request = unpack(Request, message)
    return request, open_site(context, request, parse_config(request.config))


def discreet(answer: Handler) -> Handler:
    """The same, but what goes wrong at a real site is told in its own log alone: a path may name a patient."""

    @functools.wraps(answer)
    def told(message: Message, context: Context) -> Message:
        try:
            return answer(message, context)
        except Exception as error:
            if "data" not in context.node_config:
                raise
            kind, words = type(error).__name__, str(error)
            logger.exception("fedmoap: %s: %s (the server was told the kind of error alone)", kind, words)
            raise RunError(f"{kind} at {context.node_config['name']}, whose own log says more") from None

    return told


@app.query()
@discreet
def hello(message: Message, context: Context) -> Message:
    """Says who the client is and what it holds."""
    request, site = _open(message, context)
    if request.refused:
        logger.error("the server refused this site: %s", request.refused)
    reply = Hello(
        client=site.name,
        version=__version__,
        clip_fingerprint=site.clip.fingerprint,
        domain=site.domain,
        train=site.counts(site.part.train),
        test=site.counts(site.part.test),
        validation=site.counts(site.part.validation),
        data_fingerprint=site.task.fingerprint,
    )
    return Message(pack(reply), reply_to=message)


@app.train()
@discreet
def train_round(message: Message, context: Context) -> Message:
    """Trains for one round, keeps what is private and uploads the rest."""
    request, site = _open(message, context)
    method = make_method(site.config)
    if method.schedule is None:
        raise ValueError(f"{method.name}: has nothing to train")
    state = site.state(request.run)
    learner = learner_of(site, method, request, state.load(request.counted) if method.kept else {}, training=True)
    rng = generator(site.config.seed, "train", site.name, request.round)
    outcome = _train(learner, method.schedule, site, rng)
    state.save(request.round, method.keeps(outcome.tensors), also_keep=request.counted)
    reply = TrainReply(
        client=site.name,
        examples=len(site.part.train),
        parameters=sum(tensor.numel() for tensor in outcome.tensors.values()),
        loss=outcome.loss,
        seconds=outcome.seconds,
        tensors=method.uploads(outcome.tensors),
    )
    return Message(pack(reply), reply_to=message)


@app.evaluate()
@discreet
def evaluate_round(message: Message, context: Context) -> Message:
    """Counts the correct answers, on the client's own test and validation parts, of the model that is asked for.

    `personal`: with what the client has of its own; `global`: with what it was sent alone; `newcomer`: with what one
    round of training, which leaves no trace, makes of what it was sent.
    """
    started = time.monotonic()
    request, site = _open(message, context)
    method = make_method(site.config)
    own: Tensors = {}
    if request.question == "personal" and method.kept:
        own = site.state(request.run).load(request.counted)
    elif request.question == "newcomer" and method.schedule:
        learner = learner_of(site, method, request, {}, training=True)
        rng = generator(site.config.seed, "newcomer", site.name)
        own = _train(learner, method.schedule, site, rng).tensors
    learner = learner_of(site, method, request, own, training=False)
    test, validation = site.part.test, site.part.validation
    parts = [(site.fixed(rows), site.labels(rows)) for rows in (test, validation)]
    (correct, loss), (validation_correct, _) = evaluate(learner, *parts)
    reply = EvaluateReply(
        client=site.name,
        correct=correct,
        total=len(test),
        loss=loss,
        validation_correct=validation_correct,
        validation_total=len(validation),
        seconds=time.monotonic() - started,
    )
    return Message(pack(reply), reply_to=message)
