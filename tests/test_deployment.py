"""Whole runs of real processes over gRPC on loopback, with TLS and keys, and with faults."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.record import Record
from tests.conftest import CLASSES, draw
from tests.deployment import PATIENCE, Deployment, of_sites, rounds_done, wait_for
from tests.test_simulation import TIMES

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(1200)]
SITES = ("alpha", "beta", "gamma")
LAST = "00003"
EVALUATE_EVERY = 3
"""Rounds between evaluations: each of them starts a process a site."""


@dataclass
class Whole:
    """A deployment after its first run, which nothing interrupted but in which not everybody may take part."""

    deployment: Deployment
    data: Path
    out: Path
    record: Record
    shown: str


def pictures_of(folder: Path, number: int) -> None:
    """A site's folder per class, with parts of its own."""
    for part, first in (("train", 0), ("test", 14)):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for picture in range(first, first + 4):
                image = draw(name, "photo", picture + 2 * number)
                image.save(folder / part / name / f"{picture:02d}.png")


def as_domains(data: Path, folder: Path) -> Path:
    """The sites' pictures as one data set, a domain a site: what the simulation deals out to the same clients."""
    for site in SITES:
        for part in ("train", "test"):
            shutil.copytree(data / site / part, folder / part / site)
    return folder


def results(record: Record) -> dict[str, Any]:
    """What a run came to, without times."""

    def strip(part: object) -> object:
        if isinstance(part, dict):
            return {key: strip(value) for key, value in part.items() if key not in TIMES}
        return [strip(item) for item in part] if isinstance(part, list) else part

    return {"rounds": [strip(round_.model_dump(mode="json")) for round_ in record.rounds]}


def same(one: object, other: object) -> bool:
    """Counts and words equal, decimals to 1e-5."""
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-5, abs=1e-5)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sites' pictures."""
    root = tmp_path_factory.mktemp("sites")
    for number, site in enumerate(SITES):
        pictures_of(root / site, number)
    return root


def another_clip(clip_folder: Path, folder: Path) -> Path:
    """A CLIP of the same shape with other weights."""
    shutil.copytree(clip_folder, folder)
    weights = load_file(folder / "open_clip_model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def real_settings(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The configuration of the deployed federation, of whose pictures the server has none."""
    own = of_sites(settings, tmp_path_factory.mktemp("classes"), len(SITES))
    return own | {"federation.evaluate-every": EVALUATE_EVERY, "rounds": 3}


@pytest.fixture(scope="module")
def whole(
    data: Path, clip_folder: Path, real_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Whole]:
    """Three sites, and four that must not take part: by key, by authority, by name and by CLIP."""
    from deploy.pki import make_authority, make_site

    root = tmp_path_factory.mktemp("deployment")
    deployment = Deployment(root / "real", real_settings)
    try:
        deployment.superlink()
        deployment.register(*SITES, "double", "other-clip")
        for name in ("stranger", "fooled"):
            make_site(deployment.pki, name)
        make_authority(root / "elsewhere", ["127.0.0.1"])
        for site in SITES[:2]:
            deployment.site(site, data / site)
        deployment.site("stranger", data / SITES[0])
        deployment.site("fooled", data / SITES[0], f"--ca={root / 'elsewhere' / 'ca.crt'}", as_="fooled")
        out = root / "run"
        run = deployment.start("run", [sys.executable, "-m", "deploy.cli", *deployment.run_command(out)])
        wait_for(lambda: all(f"{site} is there" in deployment.said("run") for site in SITES[:2]), PATIENCE, run)
        deployment.site(SITES[0], data / SITES[2], as_="double")
        deployment.site("other-clip", data / SITES[2], f"--model=local-dir:{another_clip(clip_folder, root / 'clip')}")
        wait_for(lambda: deployment.said("run").count("refused a client") >= 2, PATIENCE, run)
        deployment.site(SITES[2], data / SITES[2])
        assert run.wait(PATIENCE) == 0, deployment.said("run")
        for name in ("site-double", "site-other-clip"):
            wait_for(lambda name=name: "the server refused this site" in deployment.said(name), 60)
        yield Whole(deployment, data, out, Record.load(out), deployment.said("run"))
    finally:
        left = deployment.stop()
    assert not left


def test_three_sites_over_tls_give_the_simulation_s_numbers(
    whole: Whole, settings: dict[str, Any], quiet_environment: dict[str, str], tmp_path: Path
) -> None:
    """Counts, loss, traffic, server state and gates are those of a simulation of the same sites, CPU and seed."""
    same_sites = settings | {
        "data.name": str(as_domains(whole.data, tmp_path / "all")),
        "partition.kind": "domain",
        "partition.clients": len(SITES),
        "federation.evaluate-every": EVALUATE_EVERY,
        "rounds": 3,
    }
    sets = [part for key, value in same_sites.items() for part in ("-c", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "run", *sets, "--out", str(tmp_path / "simulated")],
        capture_output=True,
        text=True,
        env=quiet_environment | {"OMP_NUM_THREADS": "1"},
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    simulated = Record.load(tmp_path / "simulated")
    assert whole.record.finished
    assert [client.name for client in whole.record.clients] == [client.name for client in simulated.clients]
    assert same(results(whole.record), results(simulated))
    private = list((tmp_path / "simulated" / "private").glob(f"*/*/round-{LAST}.safetensors"))
    assert [path.parent.name for path in sorted(private, key=str)] == list(SITES)
    pairs = [(whole.out / "checkpoint.safetensors", tmp_path / "simulated" / "checkpoint.safetensors")]
    for path in private:
        site = path.parent.name
        (deployed,) = (whole.deployment.root / "state" / site / "private").glob(f"*/{site}/{path.name}")
        pairs.append((deployed, path))
    for deployed, of_simulation in pairs:
        torch.testing.assert_close(load_file(deployed), load_file(of_simulation), rtol=1e-5, atol=1e-5)


def test_the_terminal_follows_the_server(whole: Whole) -> None:
    """Who is there, every round with its accuracy, and the table of results are shown where the run was started."""
    for words in (*(f"{site} is there: 12 training images" for site in SITES), "round   3", "accuracy %"):
        assert words in whole.shown


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ("double", "alpha: another client has this name"),
        ("other-clip", "other-clip: its CLIP has fingerprint"),
    ],
)
def test_a_site_that_may_not_take_part_reads_why(whole: Whole, site: str, words: str) -> None:
    """A taken name and another CLIP are refused with a line at the server and at the site; the others finish."""
    assert words in whole.shown
    assert f"the server refused this site: {words}" in whole.deployment.said(f"site-{site}")
    assert {client.name for client in whole.record.clients} == set(SITES)


def test_keys_and_authority_are_what_lets_in(whole: Whole) -> None:
    """An unregistered key is turned away by the SuperLink; a server of another authority is not talked to."""
    assert "its certificate is not trusted" in whole.deployment.said("site-fooled")
    assert whole.deployment.processes["site-fooled"].wait(60) == 1
    assert "the SuperLink does not know this key" in whole.deployment.said("site-stranger")


def test_killed_server_and_resumed_is_the_same_run(whole: Whole, tmp_path: Path) -> None:
    """kill -9 of SuperLink and server app after a round: the run fails, and resumed ends with the same numbers."""
    deployment, out = whole.deployment, tmp_path / "run"
    deployment.end("site-double")  # else the run might be the double's, and the resumed one alpha's
    run = deployment.start("killed", [sys.executable, "-m", "deploy.cli", *deployment.run_command(out)])
    wait_for(lambda: rounds_done(out) >= 1, PATIENCE, run)
    deployment.kill("superlink")
    assert run.wait(120) == 1
    assert f"--resume {out}" in deployment.said("killed")
    assert not Record.load(out).finished
    deployment.superlink()
    done = deployment.fedmoap("run", "--superlink", "real", "--resume", str(out), timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.dumps(results(Record.load(out))) == json.dumps(results(whole.record))
