"""Whose model is asked, on which images: personal, global, unseen, newcomers, validation; in whole runs."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from common.config import Scalar
from common.method import root
from common.methods import METHODS, make_method, parse_config
from common.record import Record
from common.wire import EvaluateReply, Hello
from common.world import assignment_of, task_of
from server.members import roles
from tests.federation import Federation
from tests.local_grid import run

Settings = dict[str, Scalar]
LEFT_OUT: Settings = {
    "partition__kind": "domain",
    "partition__clients": 1,
    "partition__unseen": "sketch",
    "data__test_share": 0.2,
    "data__validation_share": 0.2,
    "rounds": 2,
}


def asked(record: Record) -> Counter[tuple[int, str, str]]:
    """How often each (round, question, client) was answered."""
    return Counter((r.number, entry.question, entry.client) for r in record.rounds for entry in r.evaluated)


def test_newcomers(settings: Settings, tmp_path: Path) -> None:
    """A newcomer never trains nor uploads; it has the global prompt's figure, and one after a round with experts."""
    record = run(settings, tmp_path / "run", federation__newcomers=1, rounds=3)
    of = {client.name: client.role for client in record.clients}
    (newcomer,) = (name for name, role in of.items() if role == "newcomer")
    trains = {name for name, role in of.items() if role == "trains"}
    assert len(trains) == 3
    assert all({entry.client for entry in round_.trained} == trains for round_ in record.rounds)
    own = {(number, "personal", name) for number in (1, 2, 3) for name in trains}
    last = {(3, "global", name) for name in trains} | {(3, "newcomer", newcomer)}
    assert set(asked(record)) == own | last | {(number, "global", newcomer) for number in (1, 2, 3)}
    assert set(asked(record).values()) == {1}
    trained = next(entry for entry in record.rounds[-1].evaluated if entry.question == "newcomer")
    sent = next(e for e in record.rounds[-1].evaluated if (e.question, e.client) == ("global", newcomer))
    assert trained.bytes_down == 3 * sent.bytes_down  # the global prompt and two experts
    assert trained.loss != sent.loss
    assert f"pool.{newcomer}" not in load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert not list((tmp_path / "run" / "private").glob(f"*/{newcomer}"))


@pytest.mark.parametrize("method", METHODS)
def test_unseen_domain(settings: Settings, tmp_path: Path, method: str) -> None:
    """The left out domain is tested by the server's model after every evaluation, and never trained on."""
    record = run(settings, tmp_path / "run", method=method, **LEFT_OUT)
    of = {client.name: client for client in record.clients}
    assert {name: client.role for name, client in of.items()} == {"photo": "trains", "unseen-sketch": "unseen"}
    train, validation, test = (sum(part) for part in (of["photo"].train, of["photo"].validation, of["photo"].test))
    unseen = sum(of["unseen-sketch"].test)
    assert (train, validation, test) == (36, 12, 12)
    assert unseen == 24
    answers = asked(record)
    for round_ in record.rounds:
        assert not round_.failures
        assert {entry.client for entry in round_.trained} <= {"photo"}
        assert ((round_.number, "global", "unseen-sketch") in answers) == (method != "coop")
        assert answers[round_.number, "personal", "photo"] == 1
        assert answers[round_.number, "global", "photo"] == (method == "pfedmoap")  # its own model is another
        totals = {(entry.client, entry.total, entry.validation_total) for entry in round_.evaluated}
        assert totals <= {("photo", test, validation), ("unseen-sketch", unseen, 0)}


@pytest.mark.parametrize("name", ["promptfl", "fedclip", "fedapt"])
def test_no_question_is_asked_twice(settings: Settings, tmp_path: Path, name: str) -> None:
    """Where clients keep nothing the server's model is their own: only newcomers are asked about it apart."""
    record = run(settings, tmp_path / "run", method=name, federation__newcomers=1, rounds=1)
    roles_of = {client.name: client.role for client in record.clients}
    answers = Counter((entry.question, roles_of[entry.client]) for entry in record.rounds[0].evaluated)
    assert answers == {("personal", "trains"): 3, ("global", "newcomer"): 1, ("newcomer", "newcomer"): 1}


def test_newcomers_are_drawn_with_the_seed() -> None:
    """Which clients join last depends on seed and names alone."""
    method = make_method(parse_config({}))
    hellos = [hello(f"c{number}") for number in range(20)]

    def drawn(seed: int, order: int) -> set[str]:
        found = roles(hellos[::order], method, (), unseen="", newcomers=5, seed=seed)
        return {name for name, role in found.items() if role == "newcomer"}

    assert len(drawn(0, 1)) == 5
    assert drawn(0, 1) == drawn(0, -1) != drawn(1, 1)


def hello(client: str, domain: str = "", train: tuple[int, ...] = (3, 1)) -> Hello:
    """What a client says of itself."""
    return Hello(client=client, version="1", clip_fingerprint="f", domain=domain, train=train, test=(1, 1))


@pytest.mark.parametrize(
    ("hellos", "options", "words"),
    [
        ([hello("a", "sketch"), hello("b")], {"unseen": "sketch"}, "'sketch': client 'a' would train on this domain"),
        ([hello("a"), hello("b", "photo", (0, 0))], {}, "client 'b' has no training image"),
        ([hello("a"), hello("b", "photo", (0, 0))], {"unseen": "sketch"}, "client 'b' has no training image"),
        ([hello("a", "photo"), hello("b")], {"domains": ("photo",)}, "fedapt: client 'b' has no domain"),
        ([hello("a", "photo")], {"domains": ("photo", "clipart")}, "fedapt: no client trains on domain 'clipart'"),
        ([hello("a", "photo"), hello("b", "photo")], {"domains": ("photo",), "newcomers": 2}, "fewer than the 2"),
    ],
)
def test_parts_that_cannot_be_had(hellos: list[Hello], options: dict[str, object], words: str) -> None:
    """A client or domain that cannot have a part in the run is named in one line."""
    method = make_method(parse_config({"method": "fedapt" if "domains" in options else "promptfl"}))
    given = {"domains": (), "unseen": "", "newcomers": 0, "seed": 0} | options
    domains = given.pop("domains")
    with pytest.raises(ValueError, match=words) as caught:
        roles(hellos, method, domains, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partition__unseen": "skech"}, "did you mean 'sketch'"),
        ({"method": "fedapt", "partition__kind": "iid"}, "fedapt: client 'client-00' has no domain"),
        ({"federation__newcomers": 4}, "federation.newcomers = 4: must be fewer than the 4"),
        ({"data__validation_share": 0.9}, "data.validation-share = 0.9: leaves nothing to train on, with 29%"),
        ({"data__validation_share": 1.0}, "data.validation-share = 1.0"),
        ({"federation__newcomers": -1}, "federation.newcomers = -1"),
    ],
)
def test_runs_that_cannot_be(settings: Settings, tmp_path: Path, changes: Settings, words: str) -> None:
    """What cannot be run is one line, and nothing is left behind."""
    with pytest.raises(ValueError, match=words) as caught:
        run(settings, tmp_path / "run", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "domain-dirichlet"])
def test_validation_parts(settings: Settings, kind: str) -> None:
    """Validation parts are taken out of training parts alone, about a fifth of all images of every class."""
    given = settings | {"partition.kind": kind, "data.test-share": 0.2}
    plain = assignment_of(parse_config(given))
    config = parse_config(given | {"data.validation-share": 0.2})
    split, task = assignment_of(config), task_of(config)
    assert split.digest != plain.digest
    for before, after in zip(plain.parts, split.parts, strict=True):
        assert np.array_equal(before.test, after.test)
        assert np.array_equal(before.train, np.sort(np.concatenate([after.train, after.validation])))
    held = np.concatenate([part.validation for part in split.parts])
    assert len(held) == len(set(held))
    share = np.bincount(task.column("label")[held]) / np.bincount(task.column("label"))
    assert (abs(share - 0.2) < 0.05).all()


def test_names_stay_together() -> None:
    """No emoji of a validation or of an unseen part is trained on, whatever its style."""
    config = parse_config(
        {"partition.clients": 6, "partition.unseen": "line art", "data.validation-share": 0.2, "data.test-share": 0.2}
    )
    assignment, names = assignment_of(config), np.asarray(task_of(config).data["name"][:])
    trained = {name for part in assignment.parts for name in names[part.train]}
    for part in assignment.parts:
        assert trained.isdisjoint(names[part.validation])
        assert trained.isdisjoint(names[part.test])
    assert assignment.names[-1] == "unseen-line-art"
    assert len(assignment.parts[-1].test) > 100


@pytest.mark.parametrize("name", METHODS)
def test_the_server_s_model_holds_nothing_of_a_client(name: str) -> None:
    """What is sent to those who have nothing of their own holds no personal tensor, and is enough to classify with."""
    small: Settings = {"prompt.context-tokens": 4, "fedapt.context-tokens": 4}
    gate: Settings = {"pfedmoap.gate-width": 8, "pfedmoap.gate-heads": 2}
    made = make_method(parse_config(small | gate | {"method": name}))
    federation = Federation(made).run(2)
    if made.shared is None:
        assert name == "coop"
        return
    alone, sent = made.shared(federation.state), (made.welcome or made.shared)(federation.state)
    assert not {root(tensor) for tensor in alone | sent} & made.personal
    assert not [tensor for tensor in alone | sent if tensor.startswith("pool.")]
    learner = made.learner(federation.local("a", alone, training=False)).eval()
    features, labels = federation.data("a")
    assert learner.logits(features, learner.text()).shape == (len(labels), 3)


def test_counts_that_cannot_be() -> None:
    """More correct answers than images are refused, on the validation part as on the test part."""
    with pytest.raises(ValueError, match="4 correct of 3"):
        EvaluateReply(client="a", correct=1, total=2, loss=0.0, seconds=0.0, validation_correct=4, validation_total=3)
