"""What others say, on our terminal: neither markup for rich nor anything that a terminal obeys."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from common.assignment import Assignment, Part
from common.data import load_task
from common.plain import LONGEST, plain, short
from common.record import Client, Failure, Record, Round
from deploy import remote
from deploy.data_command import show_partition
from deploy.live import Live
from deploy.report import clients_table, comparison, summarise
from tests.conftest import draw
from tests.test_views import evaluated, record

EVIL = "\x1b[2J[/data] [red]a\\"
SEEN = "[2J[/data] [red]a\\"


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, no_color=True, width=200)


def said(console: Console) -> str:
    """What the console wrote, without the codes of rich's own styles."""
    assert isinstance(console.file, io.StringIO)
    return Text.from_ansi(console.file.getvalue()).plain


def evil_record() -> Record:
    """A run of a data set, a client and a domain of such names."""
    run = record((evaluated("a", 5), evaluated("b", 5)))
    client = Client(name=EVIL, domain=EVIL, train=(8,), test=(10,))
    return run.model_copy(update={"clients": (client, *run.clients), "method": EVIL, "data": EVIL})


@given(st.text())
def test_words_in_one_line(words: str) -> None:
    """Whatever is said is one printable line, which loses no printable character but spaces."""
    assert plain(words).isprintable()
    assert [c for c in plain(words) if c != " "] == [c for c in words if c.isprintable() and c != " "]
    assert short(words) == plain(words)
    assert len(short(words * 100)) <= LONGEST


def test_failures_while_a_run_goes_on() -> None:
    """A reason with brackets and escapes is shown with its brackets and without its escapes."""
    console = terminal()
    failure = Failure(client="a", phase="train", reason=EVIL)
    with Live(console) as live:
        live.started(evil_record())
        live.asked("train", 1, ["a"])
        live.answered(EVIL)
        live.completed(Round(number=1, seconds=1, attempts=1, failures=(failure,)))
    assert f"a failed to train: {SEEN}" in said(console)
    assert f"{SEEN}, seed 0" in said(console)
    assert "\x1b[2J" not in console.file.getvalue()


def test_tables_of_records() -> None:
    """Names of methods, clients and domains too."""
    console, run = terminal(), evil_record()
    console.print(clients_table(run))
    console.print(comparison(summarise([run]), EVIL))
    assert said(console).count(SEEN) == 5
    assert "\x1b[2J" not in console.file.getvalue()


def test_names_in_a_data_set(tmp_path: Path) -> None:
    """A class folder may have any name."""
    names = ["[bold]b", "\x1b[2Jc"]
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            draw("circle" if name == names[0] else "square", "photo", number).save(
                tmp_path / "data" / name / f"{number}.png"
            )
    task, console = load_task(str(tmp_path / "data")), terminal()
    part = Part((~task.test).nonzero()[0], task.test.nonzero()[0])
    show_partition(task, Assignment((part,), "d", ("client-00",), (None,)), console)
    assert "[bold]b 3" in said(console)
    assert "[2Jc 3" in said(console)
    assert "\x1b[2J" not in console.file.getvalue()


def test_lines_of_a_server_s_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of the log of a run elsewhere are shown as they are, too."""
    line = f"WARNING: refused a client: {EVIL}"
    monkeypatch.setattr(remote, "flwr", lambda *_: [sys.executable, "-c", f"print({line!r})"])
    console = terminal()
    remote._follow("1", "real", console, verbose=False)  # noqa: SLF001 - what follows needs a SuperLink
    assert f"refused a client: {SEEN}" in said(console)
    assert "\x1b[2J" not in console.file.getvalue()


def test_the_last_line_of_a_command() -> None:
    """An error is one line without escapes, whoever's words it holds."""
    code = f"from deploy.entry import run_command\ndef f(): raise ValueError({EVIL!r})\nrun_command(f)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {SEEN}\n"
