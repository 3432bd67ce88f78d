"""What there is in the federation, as the server knows it: of simulated clients all, of real sites what they say."""

from collections.abc import Collection
from dataclasses import dataclass

from common.config import RunConfig
from common.data import json_digest
from common.wire import Hello
from common.world import assignment_of, read_classes, task_of


@dataclass(frozen=True)
class Holdings:
    """The data of all clients, described for the record, whose fields of the same names it fills."""

    data: str
    split: str
    notes: tuple[str, ...]
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    data_fingerprint: str
    partition_digest: str


def class_names_of(config: RunConfig) -> tuple[str, ...]:
    """The class names, known before any client has said a word.

    They come from the file that `data.classes` names, else from the data set, of which real sites need the server to
    have a copy, if only of its class names.
    """
    if config.federation.sites and config.data.classes:
        return read_classes(config.data.classes)
    return task_of(config).class_names


def holdings_of(config: RunConfig, class_names: tuple[str, ...], hellos: Collection[Hello]) -> Holdings:
    """What there is, once all clients have said what they hold."""
    if not config.federation.sites:
        task = task_of(config)
        return Holdings(
            data=task.name,
            split=task.split,
            notes=task.notes,
            class_names=class_names,
            domain_names=task.domain_names,
            data_fingerprint=task.fingerprint,
            partition_digest=assignment_of(config).digest,
        )
    sites = sorted(hellos, key=lambda hello: hello.client)
    return Holdings(
        data=f"{len(sites)} sites' own",
        split="each site its own",
        notes=(),
        class_names=class_names,
        domain_names=tuple(sorted({hello.domain for hello in sites if hello.domain})),
        data_fingerprint=json_digest([hello.data_fingerprint for hello in sites]),
        partition_digest=json_digest([[h.client, h.domain, h.train, h.test, h.validation] for h in sites]),
    )
