import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from deploy.bench import bench
from deploy.bench.cases import CASES
from deploy.bench.measure import Case, differences, in_turn, peak_growth
from deploy.bench.setting import Setting


@pytest.fixture
def setting(clip_folder: Path) -> Setting:
    """The tests' small CLIP in double precision."""
    return Setting(
        model=f"local-dir:{clip_folder}",
        pretrained="",
        classes=5,
        experts=2,
        batch=4,
        images=6,
        context_tokens=4,
        dtype="float64",
        device="cpu",
    )


def options(setting: Setting) -> list[str]:
    """The command line that asks for this setting."""
    return [
        f"--{key.replace('_', '-')}={value}" for key, value in vars(setting).items() if isinstance(value, str | int)
    ]


@pytest.mark.parametrize("name", CASES)
def test_both_ways_agree(name: str, setting: Setting) -> None:
    """Every benchmark compares two ways to the same numbers."""
    found = differences(CASES[name](setting))
    assert found
    assert max(found.values()) < (1e-6 if name == "features" else 1e-10)  # features are kept as float32


def test_part_of_the_classes(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the obvious way would need more memory than there is, it does part of the classes, and both still agree."""
    monkeypatch.setattr("deploy.bench.setting.free_memory", lambda _device: int(2.2 / 0.6 * 2 * 40 * 16 * 8 * 17))
    case = CASES["text"](setting)
    assert case.share == 2 / 5
    assert case.obvious()["features"].shape[0] == 2
    assert max(differences(case).values()) < 1e-10


def test_turns_are_scaled_to_all_of_the_work() -> None:
    """Time taken for part of the work counts for all of it."""
    calls: list[str] = []

    def way(name: str, size: int) -> dict[str, torch.Tensor]:
        calls.append(name)
        return {"x": torch.rand(size, size) @ torch.rand(size, size)}

    whole, half = (Case(lambda: way("obvious", 600), lambda: way("ours", 6), share) for share in (1.0, 0.5))
    (slow, _), (scaled, _) = (in_turn(case, 3, torch.device("cpu")) for case in (whole, half))
    assert 1.2 < sorted(scaled)[1] / sorted(slow)[1] < 3.5
    assert calls.count("ours") == 2 * (1 + 3 * 3)


def test_peak_memory_counts_what_is_freed_again() -> None:
    """The peak is what was held at once, not what is left."""
    growth = peak_growth(lambda: {"x": torch.ones(64 * 2**20).sum()}, torch.device("cpu"))
    if growth is None:
        pytest.skip("this system does not tell")
    assert 0.9 * 256 * 2**20 < growth < 1.5 * 256 * 2**20


def test_command_prints_a_table_and_json(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command prints ratio, memory and differences for people, and the same as JSON for programs."""
    monkeypatch.setattr("deploy.bench.run._peak", lambda *_: 3 * 2**20)
    command = ["text", *options(setting), "--repeat=2"]
    table, as_json = (CliRunner().invoke(bench, [*command, *more]).stdout for more in ([], ["--json"]))
    assert "largest relative difference, features: " in table
    assert "3 MiB" in table
    result = json.loads(as_json)
    assert len(result["ratios"]) == 2
    assert result["settings"]["classes"] == 5


@pytest.mark.slow
def test_peak_is_measured_in_a_process_of_its_own(setting: Setting) -> None:
    """A process that does one way alone prints by how many bytes its peak memory grew."""
    command = [sys.executable, "-m", "deploy.bench", "text", *options(setting), "--only=ours"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None" or int(done.stdout) > 0


@pytest.mark.slow
def test_startup(clip_folder: Path) -> None:
    """Both kinds of process take the same step."""
    command = ["startup", f"--model=local-dir:{clip_folder}", "--repeat=1", "--threads=1", "--json"]
    done = subprocess.run([sys.executable, "-m", "deploy.bench", *command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["differences"]["context after the step"] < 1e-5


def test_unknown_model_is_one_line() -> None:
    """A model that does not exist ends the command with one line on standard error."""
    result = CliRunner().invoke(bench, ["text", "--model=ViT-B-61"])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["error: open_clip knows no model 'ViT-B-61', did you mean 'ViT-B-16'?"]
