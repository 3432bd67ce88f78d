"""The ServerApp: configuration in, rounds, record and checkpoint out."""

import uuid
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.config import RunConfig
from common.errors import RunError
from common.method import Local, Sizes, Tensors, root
from common.methods import make_method, parse_config
from common.progress import Progress
from common.provenance import provenance
from common.record import Client, Record, Role
from common.text import PromptEncoder
from common.wire import Hello, Request
from common.world import clip_of, device_of, domains_of
from server.folder import alone, check_unchanged, earlier_run, gone_on, save
from server.holdings import Holdings, class_names_of, holdings_of
from server.log import LogProgress
from server.members import gather, roles
from server.strategy import Strategy


def serve(grid: Grid, config: RunConfig, progress: Progress) -> Record:
    """The record of a whole run, new or resumed; it and the checkpoint are on disk after every round.

    Raises:
        ValueError: the configuration cannot be run, or the output folder holds another run; one line.
        RunError: too few clients are there, or too few answered; what was done before stays, and can be resumed.
    """
    config = config.placed()
    folder = Path(config.out)
    earlier = earlier_run(config)
    strategy, first, record = _set_out(grid, config, progress, earlier)
    with alone(folder, earlier):
        if earlier:
            state, record = gone_on(folder, earlier, first)
        else:
            state = first
            save(folder, state, record)
        progress.started(record)
        while len(record.rounds) < strategy.rounds:
            state, round_ = strategy.round(state, record.rounds)
            record.rounds.append(round_)
            save(folder, state, record)
            progress.completed(round_)
        record.finished = True
        record.save(folder)
    return record


def _set_out(
    grid: Grid, config: RunConfig, progress: Progress, earlier: Record | None
) -> tuple[Strategy, Tensors, Record]:
    """(strategy, first state, record without rounds), once the clients are there; nothing is on disk yet."""
    method, clip = make_method(config), clip_of(config)
    class_names = class_names_of(config)
    PromptEncoder(clip, class_names, 0)  # refuses class names that no method could tell apart
    request = Request(
        run=earlier.run if earlier else uuid.uuid4().hex,
        round=0,
        class_names=class_names,
        domain_names=(),
        config=config.flat(),
    )
    members = gather(
        grid,
        request,
        config=config,
        method=method,
        count=len(earlier.clients) if earlier else config.nodes,
        clip_fingerprint=clip.fingerprint,
        only={client.name for client in earlier.clients} if earlier else None,
    )
    holdings = holdings_of(config, class_names, members.values())
    if earlier:
        now = vars(holdings) | {"clip_fingerprint": clip.fingerprint}
        check_unchanged({name: getattr(earlier, name) for name in now}, now)
    domains = domains_of(config, holdings.domain_names)
    request = request.model_copy(update={"domain_names": domains})
    sizes = Sizes(len(class_names), len(domains), clip.embed_dim, clip.context_width)
    first = method.first(sizes, config.seed)
    part_of = roles(
        members.values(),
        method,
        domains,
        unseen=config.partition.unseen,
        newcomers=config.federation.newcomers,
        seed=config.seed,
    )
    # as a client will make it: what does not fit this CLIP is refused here, before there is a run
    method.learner(Local(clip, class_names, domains, None, first, config.seed, training=False))
    strategy = Strategy(
        method=method,
        config=config,
        request=request,
        upload_like={name: value for name, value in first.items() if root(name) not in method.personal | method.fixed},
        grid=grid,
        nodes={hello.client: node for node, hello in members.items()},
        examples={hello.client: sum(hello.train) for hello in members.values()},
        tests={hello.client: (sum(hello.test), sum(hello.validation)) for hello in members.values()},
        domains={h.client: h.domain for h in members.values() if part_of[h.client] == "trains"},
        newcomers=[client for client, role in part_of.items() if role == "newcomer"],
        progress=progress,
    )
    record = _new_record(request.run, config, strategy.rounds, holdings, list(members.values()), part_of)
    return strategy, first, record


def _new_record(
    run: str, config: RunConfig, rounds: int, holdings: Holdings, hellos: list[Hello], part_of: dict[str, Role]
) -> Record:
    clip = clip_of(config)
    return Record(
        run=run,
        method=config.method,
        seed=config.seed,
        planned_rounds=rounds,
        config=config.flat(),
        provenance=provenance(device_of(config.clip.device)),
        **vars(holdings),
        clip_fingerprint=clip.fingerprint,
        clip_parameters=clip.parameters,
        clients=tuple(
            Client(
                name=hello.client,
                role=part_of[hello.client],
                domain=hello.domain or None,
                train=hello.train,
                test=hello.test,
                validation=hello.validation,
            )
            for hello in sorted(hellos, key=lambda hello: hello.client)
        ),
    )


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs what Flower's run configuration states."""
    progress = LogProgress(events=True)
    try:
        serve(grid, parse_config(context.run_config), progress)
    except (ValueError, RunError) as error:
        progress.failed(str(error))
        raise
