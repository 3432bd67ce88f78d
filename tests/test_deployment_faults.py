"""A run of real processes in which sites die, lose their data and upload what they should not."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from common.record import Record
from tests.deployment import PATIENCE, ROOT, Deployment, of_sites, rounds_done, wait_for
from tests.test_deployment import pictures_of

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(1500)]
SITES = ("dies", "faulty", "forgets", "sound")
ROUNDS = 5


@dataclass
class Faults:
    """What is left of the run."""

    deployment: Deployment
    record: Record

    def failures(self, site: str, phase: str = "train") -> dict[int, str]:
        """Round to reason."""
        found = [(r.number, f) for r in self.record.rounds for f in r.failures]
        return {number: f.reason for number, f in found if f.client == site and f.phase == phase}

    def trained(self, site: str) -> list[int]:
        """Rounds in which the site's upload counted."""
        return [r.number for r in self.record.rounds if site in {entry.client for entry in r.trained}]


@pytest.fixture(scope="module")
def faults(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """Four sites, of which one is sound."""
    root = tmp_path_factory.mktemp("faults")
    for number, site in enumerate(SITES):
        pictures_of(root / "data" / site, number)
    (root / "count").mkdir()
    own = of_sites(settings, root, len(SITES)) | {
        "federation.required-share": 0.25,
        "federation.evaluate-every": 2,
        "rounds": ROUNDS,
    }
    deployment = Deployment(root / "real", own)
    try:
        deployment.superlink()
        deployment.register(*SITES)
        for site in SITES:
            if site == "faulty":
                broken = {"PYTHONPATH": f"{ROOT / 'tests' / 'faulty_site'}:{ROOT}", "FAULTY_SITE": str(root / "count")}
                deployment.environment |= broken
            deployment.site(site, root / "data" / site)
            deployment.environment |= {"PYTHONPATH": str(ROOT)}
            deployment.environment.pop("FAULTY_SITE", None)
        out = root / "run"
        run = deployment.start("run", [sys.executable, "-m", "deploy.cli", *deployment.run_command(out, "--verbose")])
        wait_for(lambda: rounds_done(out) >= 1, PATIENCE, run)
        shutil.rmtree(root / "data" / "forgets")
        wait_for(lambda: "round 2: train" in deployment.said("run"), PATIENCE, run)
        wait_for(lambda: deployment.at_work("site-dies"), PATIENCE, run)
        deployment.kill("site-dies")
        deployment.site("dies", root / "data" / "dies")
        wait_for(lambda: deployment.said("superlink").count("Activated node_id") > len(SITES), PATIENCE, run)
        (root / "count" / "go").touch()
        assert run.wait(2 * PATIENCE) == 0, deployment.said("run")
        yield Faults(deployment, Record.load(out))
    finally:
        left = deployment.stop()
    assert not left


def test_the_others_finish(faults: Faults) -> None:
    """Whatever happens to other sites, the sound one trains in every round and the run ends well."""
    assert faults.record.finished
    assert faults.trained("sound") == list(range(1, ROUNDS + 1))


def test_bad_uploads_are_refused_and_named(faults: Faults) -> None:
    """NaN, a wrong shape and a norm of millions never count, and the record says what was wrong with each."""
    reasons = faults.failures("faulty")
    assert faults.trained("faulty") == []
    assert "context: holds NaN" in reasons[1]
    assert "context: shape (1, 16) instead of (4, 16)" in reasons[2]
    assert "is above federation.norm-bound" in reasons[3]


def test_vanished_data_is_named(faults: Faults) -> None:
    """A site whose folder is gone fails from then on, and only its own log says what; what it gave before stays."""
    assert faults.trained("forgets") == [1]
    assert faults.failures("forgets")[2] == "ValueError at forgets, whose own log says more (code 2)"
    folder = str(faults.deployment.root.parent / "data" / "forgets")
    assert folder in faults.deployment.said("site-forgets")


def test_a_killed_site_comes_back_with_its_gate(faults: Faults) -> None:
    """kill -9 in mid-round fails that round for the site alone; started again, it goes on from its private tensors."""
    trained = faults.trained("dies")
    assert 1 in trained
    assert 2 not in trained
    assert 2 in faults.failures("dies")
    assert trained[-2:] == [ROUNDS - 1, ROUNDS]
    private = list((faults.deployment.root / "state" / "dies" / "private").glob("*/dies/*.safetensors"))
    assert f"round-{trained[-1]:05d}.safetensors" in {path.name for path in private}
    said = faults.deployment.said("site-dies")
    assert "the private tensors start anew" not in said
    assert "dies: was killed" in said
    assert "the SuperNode ended" not in said
