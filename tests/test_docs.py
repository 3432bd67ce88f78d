"""What the README tells a newcomer to type exists, and the quick start runs."""

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from common.methods import parse_config
from common.record import Record
from deploy.cli import app, mount
from deploy.recipe_table import load_recipe
from deploy.settings import read_recipe, read_setting, recipe_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)
LINES = [line.strip().removeprefix("$ ") for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
TYPED = sorted({line for line in LINES if line.startswith("fedmoap ")})

mount()
COMMANDS = typer.main.get_command(app)


def check(line: str) -> None:
    words = shlex.split(line)[1:]
    command = COMMANDS
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert command is not COMMANDS, f"{line}: no such command"
    known = {option for parameter in command.params for option in parameter.opts}
    options = [word.split("=")[0] for word in words if re.fullmatch(r"-{1,2}[a-z][a-z-]*(=.*)?", word)]
    assert set(options) <= known, f"{line}: {set(options) - known}"


@pytest.mark.parametrize("line", TYPED)
def test_commands_and_options_exist(line: str) -> None:
    """Every command in the README exists, and has the options that it is shown with."""
    check(line)


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (command, [line for line in LINES if line.startswith(f"{command} ")])
        for command in ("flower-client", "flower-superlink", "flwr run", "flwr federation simulation-config")
    ],
)
def test_flower_s_commands_and_options_exist(command: str, lines: list[str]) -> None:
    """The README's other commands have, by their own help, the options that they are shown with."""
    assert lines
    program, *words = command.split()
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *words, "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200", "FLWR_DISABLE_UPDATE_CHECK": "1", "NO_COLOR": "1"},
        check=True,
        timeout=100,
    )
    for line in lines:
        options = {word.split("=")[0] for word in shlex.split(line) if word.startswith("--")}
        assert options <= set(re.findall(r"--[a-z][a-z-]+", done.stdout)), line


def test_readme_shows_every_command() -> None:
    """No command is left for a newcomer to find by chance."""
    assert {word for word in COMMANDS.commands if f"fedmoap {word}" not in README} == set()


@pytest.mark.parametrize("line", [line for line in TYPED if "-c " in line and "expert=3" not in line])
def test_settings_in_the_readme_are_valid(line: str) -> None:
    """What `-c` sets in the README is accepted."""
    words = shlex.split(line)
    parse_config(dict(read_setting(value) for flag, value in pairwise(words) if flag == "-c"))


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_whole(name: str) -> None:
    """Every recipe says what it is and costs, is a valid configuration, and its command exists."""
    about = load_recipe(name)
    assert about.title
    assert about.cost
    parse_config(read_recipe(name))
    check(about.command)


def test_make_targets_exist() -> None:
    """Every `make` target that the README names is in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z]+)\b(?=`|\n| #)", README))
    assert {"demo", "test", "lint", "install"} <= named
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)


@pytest.mark.slow
def test_quick_start_runs(tmp_path: Path, quiet_environment: dict[str, str]) -> None:
    """The first command that a newcomer types ends well, with a table of all eight clients."""
    line = next(line for line in LINES if line.startswith("fedmoap run demo"))
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *shlex.split(line)[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=quiet_environment | {"PYTHONPATH": str(ROOT)},
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    clients = Record.load(tmp_path / "runs" / "pfedmoap-seed0").clients
    assert len(clients) == 8
    assert all(f"│ {client.name} " in done.stdout for client in clients)
