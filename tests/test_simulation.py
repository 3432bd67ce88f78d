"""Whole runs: the real commands, Flower's simulation and Ray, on real pictures."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from common.record import Record

pytestmark = pytest.mark.slow
TIMES = {"seconds", "started", "provenance", "run", "config"}


def command(settings: dict[str, Any], *arguments: str) -> list[str]:
    sets = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    return [sys.executable, "-m", "deploy.cli", "run", *sets, *arguments]


def run(settings: dict[str, Any], out: Path, environment: dict[str, str], *more: str) -> Record:
    done = subprocess.run(
        command(settings, "--out", str(out), *more), capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Record.load(out)


def numbers(record: Record) -> object:
    """All that a record says, but when and where."""

    def strip(part: object) -> object:
        if isinstance(part, dict):
            return {key: strip(value) for key, value in part.items() if key not in TIMES}
        return [strip(item) for item in part] if isinstance(part, list) else part

    return strip(record.model_dump(mode="json"))


@pytest.fixture(scope="module")
def whole(
    settings: dict[str, Any], quiet_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Record]:
    """A run that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, run(settings, out, quiet_environment)


def test_a_run_does_what_the_paper_says(whole: tuple[Path, Record]) -> None:
    """All clients train and are evaluated in every round; experts come in the second, from others, K of them."""
    _, record = whole
    names = {client.name for client in record.clients}
    assert record.finished
    assert len(record.rounds) == 4
    for round_ in record.rounds:
        assert {entry.client for entry in round_.trained} == {entry.client for entry in round_.evaluated} == names
        assert not round_.failures
        for entry in round_.trained:
            assert len(entry.drew_on) == (0 if round_.number == 1 else 2)
            assert set(entry.drew_on) <= names - {entry.client}
            assert entry.bytes_up == 4 * 16 * 4
            assert entry.bytes_down == entry.bytes_up * (1 + len(entry.drew_on))
            gate = 0 if round_.number == 1 else 4 * 16 * 17
            assert entry.parameters == 4 * 16 + gate
    for client in record.clients:
        tested = {entry.total for round_ in record.rounds for entry in round_.evaluated if entry.client == client.name}
        assert tested == {sum(client.test)}


def resumed(out: Path, environment: dict[str, str]) -> Record:
    """The record after `--resume` of the run in the folder."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "run", "--resume", str(out)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Record.load(out)


def test_killed_and_resumed_is_the_same_run(
    whole: tuple[Path, Record], settings: dict[str, Any], quiet_environment: dict[str, str], tmp_path: Path
) -> None:
    """kill -9 after a round, then --resume: the record ends with the numbers of a run that was never interrupted."""
    out = tmp_path / "killed"
    process = subprocess.Popen(
        command(settings, "--out", str(out)),
        env=quiet_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while not ((out / "record.json").exists() and len(Record.load(out).rounds) >= 2):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    interrupted = Record.load(out)
    assert not interrupted.finished
    assert numbers(resumed(out, quiet_environment)) == numbers(whole[1])


def test_the_table_of_a_run_can_be_made_again(whole: tuple[Path, Record], quiet_environment: dict[str, str]) -> None:
    """`fedmoap report` makes table and figures from the record alone."""
    out, record = whole
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "report", str(out)],
        capture_output=True,
        text=True,
        env=quiet_environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert all(client.name in done.stdout for client in record.clients)
    assert {"comparison.md", "accuracy.png", "experts.png"} <= {path.name for path in out.iterdir()}


def test_another_run_s_folder_is_left_alone(
    whole: tuple[Path, Record], settings: dict[str, Any], quiet_environment: dict[str, str]
) -> None:
    """A run into a folder that holds one ends in one line, status 1, and the record there stays as it was."""
    out, _ = whole
    before = (out / "record.json").read_bytes()
    done = subprocess.run(
        command(settings, "--out", str(out)), capture_output=True, text=True, env=quiet_environment, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "holds another run" in done.stderr
    assert (out / "record.json").read_bytes() == before


def test_a_failing_client_is_named_and_the_round_goes_on(
    settings: dict[str, Any], quiet_environment: dict[str, str], tmp_path: Path
) -> None:
    """A client that fails in a round, or sends what it may not, is in the record; the others' round counts."""
    faulty = settings | {"rounds": 3, "out": str(tmp_path), "method": "promptfl"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.faulty_client", json.dumps(faulty)],
        capture_output=True,
        text=True,
        env=quiet_environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    record = Record.load(tmp_path)
    assert record.finished
    failures = [(r.number, f.client, f.phase) for r in record.rounds for f in r.failures]
    assert failures == [(2, "photo-00", "train"), (3, "sketch-01", "train")]
    reasons = [failure.reason for round_ in record.rounds for failure in round_.failures]
    assert reasons[0] == "the disk is full (code 2)"
    assert "context: holds NaN" in reasons[1]
    assert [len(round_.trained) for round_ in record.rounds] == [4, 3, 3]
