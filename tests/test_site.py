import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict

from client.site import Site, open_site
from common.data import load_site
from common.events import event_line, read_event
from common.methods import parse_config
from common.record import Round
from common.wire import Request
from common.world import read_classes
from deploy.pki import make_authority, make_site
from tests.conftest import CLASSES, draw

REQUEST = Request(run="abc", round=1, class_names=("horse", *CLASSES), domain_names=("photo",), config={})


def flower_client(*options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.site", *options], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def options(pictures: Path, clip_folder: Path, tmp_path: Path) -> dict[str, str]:
    """What a site with nothing wrong is started with."""
    make_authority(tmp_path / "pki", ["127.0.0.1"])
    key, _ = make_site(tmp_path / "pki", "hospital-a")
    return {
        "--superlink": "127.0.0.1:9092",
        "--name": "hospital-a",
        "--data": str(pictures / "photo"),
        "--ca": str(tmp_path / "pki" / "ca.crt"),
        "--key": str(key),
        "--state": str(tmp_path / "state"),
        "--model": f"local-dir:{clip_folder}",
        "--device": "cpu",
    }


def site_of(options: dict[str, str], settings: dict[str, Any]) -> Site:
    own = {
        key.removeprefix("--"): value for key, value in options.items() if key not in {"--superlink", "--ca", "--key"}
    }
    context = Context(0, 1, own, RecordDict(), {})
    return open_site(context, REQUEST, parse_config(settings))


def test_a_site_says_what_it_has(options: dict[str, str], tmp_path: Path) -> None:
    """Classes with their images, device and CLIP fingerprint, a line each; options may come from a file."""
    lines = [f'{key.removeprefix("--")} = "{value}"\n' for key, value in options.items()]
    (tmp_path / "site.toml").write_text("".join(lines), encoding="utf-8")
    done = flower_client("--config", str(tmp_path / "site.toml"), "--check")
    assert done.returncode == 0, done.stderr
    assert "60 images of 3 classes: circle 20, square 20, striped_flag 20" in done.stderr
    assert "device cpu, CLIP local-dir:" in done.stderr
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").rglob("*")}
    assert not any(mode & 0o077 for mode in modes)


def test_all_that_is_wrong_is_said_at_once(options: dict[str, str], tmp_path: Path) -> None:
    """An open key, a missing authority, an empty class and a device that is not there: a line each, status 1."""
    Path(options["--key"]).chmod(0o644)
    (tmp_path / "data" / "circle").mkdir(parents=True)
    wrong = options | {
        "--ca": str(tmp_path / "nowhere.crt"),
        "--data": str(tmp_path / "data"),
        "--device": "cuda:7",
    }
    done = flower_client(*(f"{key}={value}" for key, value in wrong.items()), "--check")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == done.stderr.splitlines()
    for words in ("nowhere.crt: cannot be read", "others may read it", "circle: no image", "'cuda:7': is not here"):
        assert sum(words in error for error in errors) == 1, words


def test_a_site_without_a_test_image_is_told_before_it_connects(
    options: dict[str, str], pictures: Path, tmp_path: Path
) -> None:
    """One image of each class leaves none to test on: one line, unless the domain may be one that is only tested."""
    for name in CLASSES:
        (tmp_path / "data" / name).mkdir(parents=True)
        shutil.copy(pictures / "photo" / name / "00.png", tmp_path / "data" / name)
    given = [f"{key}={value}" for key, value in (options | {"--data": str(tmp_path / "data")}).items()]
    done = flower_client(*given, "--check")
    assert done.returncode == 1
    assert done.stderr == f"error: --data {tmp_path / 'data'}: no image to test on among its 3\n"
    assert flower_client(*given, "--domain=photo", "--check").returncode == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--name": "../a"}, "--name: '../a'"),
        ({"--domain": "photo\x1b[2J"}, "--domain: 'photo\\x1b[2J': Value error, must be printable"),
        ({"--domain": "x" * 65}, "at most 64 characters"),
        ({"--superlink": "host"}, "must be HOST:PORT"),
        ({"--key": ""}, "--key: must be given; or --insecure"),
    ],
)
def test_options_that_cannot_be_are_one_line(options: dict[str, str], changes: dict[str, str], words: str) -> None:
    """A name that could leave its folder, an address without port, and no key are refused before anything else."""
    given = {key: value for key, value in (options | changes).items() if value}
    done = flower_client(*(f"{key}={value}" for key, value in given.items()), "--check")
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('insecure = "false"', "--insecure: 'false': must be true or false, without quotes"),
        ("insecure = 0", "--insecure: 0: must be true or false, without quotes"),
        ("superlink = 9092", "--superlink: 9092: must be text, in quotes"),
        ("ca = true", "--ca: True: must be text, in quotes"),
        ('key = ["a", "b"]', "--key: ['a', 'b']: must be text, in quotes"),
        ("state = 1", "--state: 1: must be text, in quotes"),
    ],
)
def test_a_file_s_values_are_of_their_kind(options: dict[str, str], tmp_path: Path, line: str, words: str) -> None:
    """A value of another kind in the file is one line; none of them turns TLS and keys off."""
    given = {key: value for key, value in options.items() if key != f"--{line.partition(' ')[0]}"}
    (tmp_path / "site.toml").write_text(line + "\n", encoding="utf-8")
    done = flower_client("--config", str(tmp_path / "site.toml"), *(f"{k}={v}" for k, v in given.items()), "--check")
    assert done.returncode == 1
    assert done.stderr == f"error: {words}\n"


def test_a_real_site_has_the_server_s_classes(options: dict[str, str], settings: dict[str, Any]) -> None:
    """Labels are the server's, classes that the site lacks have no image, and its domain is what it says."""
    site = site_of(options | {"--domain": "photo"}, settings)
    assert site.task.class_names == ("horse", *CLASSES)
    assert site.counts(site.part.train) == (0, 14, 14, 14)
    assert site.counts(site.part.test) == (0, 6, 6, 6)
    assert site.domain == "photo"
    assert site.name == "hospital-a"


def test_a_site_s_own_folders_and_model_win(options: dict[str, str], settings: dict[str, Any], tmp_path: Path) -> None:
    """Whatever the server's configuration says of model, device and folders, a site uses its own."""
    site = site_of(options, settings | {"clip.model": "ViT-B-16", "data.cache": "/elsewhere", "out": "/elsewhere"})
    assert site.config.clip.model == options["--model"]
    assert site.config.data.cache == str(tmp_path / "state" / "cache")
    state = site.state("abc")
    state.save(1, {"gate": torch.ones(2)}, also_keep=0)
    assert state.folder == tmp_path / "state" / "private" / "abc" / "hospital-a"
    with pytest.raises(ValueError, match="must be letters and digits"):
        site.state("../../b")


def test_the_share_is_of_every_class_and_drawn_by_the_seed(options: dict[str, str], settings: dict[str, Any]) -> None:
    """Another seed tests on other images, the same seed on the same."""
    first, again = (site_of(options, settings | {"seed": 1}) for _ in range(2))
    other = site_of(options, settings | {"seed": 2})
    assert first.part.test.tolist() == again.part.test.tolist() != other.part.test.tolist()


def test_a_site_s_table_is_put_under_the_server_s_classes(tmp_path: Path) -> None:
    """A parquet file's own class numbers become the server's; a class that the server has not is named."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["square", "striped flag"])})
    labels = [0, 1, 1, 0]
    images = [draw(("square", "striped_flag")[label], "photo", number) for number, label in enumerate(labels)]
    table = {"image": images, "label": labels}
    Dataset.from_dict(table, features=features).to_parquet(tmp_path / "site.parquet")
    task = load_site(str(tmp_path / "site.parquet"), CLASSES)
    assert task.class_names == CLASSES
    assert task.column("label").tolist() == [1, 2, 2, 1]
    with pytest.raises(ValueError, match="class 'striped flag' is none of the 2 classes"):
        load_site(str(tmp_path / "site.parquet"), ["circle", "square"])


def test_a_node_without_options_is_told_how(settings: dict[str, Any]) -> None:
    """A SuperNode that was started by hand answers with the command that it should have been started by."""
    with pytest.raises(ValueError, match="start it by flower-client"):
        open_site(Context(0, 1, {}, RecordDict(), {}), REQUEST, parse_config(settings))


@pytest.mark.parametrize(
    ("text", "words"), [("a\nb\na\n", "'a' twice"), ("\n \n", "no class name"), (None, "cannot be")]
)
def test_bad_class_files_are_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    """A file of class names that is missing, empty or says one twice is named."""
    if text is not None:
        (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        read_classes(str(tmp_path / "classes.txt"))


def test_class_files_keep_their_order(tmp_path: Path) -> None:
    """A name a line, in the file's order, empty lines and spaces around names left out."""
    (tmp_path / "classes.txt").write_text("zebra \n\n traffic light\nape\n", encoding="utf-8")
    assert read_classes(str(tmp_path / "classes.txt")) == ("zebra", "traffic light", "ape")


def test_events_survive_the_log() -> None:
    """An event is one line, found again behind whatever a log puts before it; other lines are none."""
    round_ = Round(number=3, seconds=1.5, attempts=1)
    line = event_line("completed", completed=round_)
    assert "\n" not in line
    event = read_event(f"INFO :  {line}\n")
    assert event is not None
    assert event.completed == round_
    assert read_event("INFO : round 3") is None
    assert read_event("fedmoap-event {broken") is None


@pytest.mark.skipif(os.name != "posix", reason="signals of Unix")
def test_a_waiting_site_ends_when_told(options: dict[str, str]) -> None:
    """Without a SuperLink a site waits, says so once, and ends with status 0 on SIGTERM."""
    command = [sys.executable, "-m", "deploy.site", *(f"{k}={v}" for k, v in options.items())]
    command = [part.replace(":9092", ":1") for part in command]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "waiting for it" in line:
                process.terminate()
        assert process.wait(30) == 0
    assert "no SuperLink at 127.0.0.1:1" in "".join(said)
    assert said[-1] == "hospital-a: stopped\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of Unix")
def test_a_second_ctrl_c_does_not_cut_the_end_short(options: dict[str, str], tmp_path: Path) -> None:
    """Whatever signals follow the first, the SuperNode is ended in order: nothing says that it was killed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        given = {key: value for key, value in options.items() if key not in {"--ca", "--key"}}
        given["--superlink"] = f"127.0.0.1:{server.getsockname()[1]}"
        command = [sys.executable, "-m", "deploy.site", *(f"{k}={v}" for k, v in given.items()), "--insecure"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            running = tmp_path / "state" / "running"
            deadline = time.monotonic() + 60
            while not running.exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            while process.poll() is None:
                process.send_signal(signal.SIGINT)
                time.sleep(0.02)
            assert process.stderr is not None
            assert process.stderr.read().splitlines()[-1] == "hospital-a: stopped"
            assert process.returncode == 0
            assert not running.exists()
