"""The federation in containers, for real: base image, build, `docker-compose up`, and what a site can reach."""

import json
import re
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.docker_host import COMPOSE, PROJECT, base_image, build_image, call, compose, daemon, install, run_in

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]
IMAGE = "fedmoap"
SITES = ("openmoji", "line-art", "fluent-3d")
TOOLS = ("cc", "gcc", "g++", "c++", "clang", "ld", "as", "make", "cmake", "ninja", "pip", "pip3", "uv", "git", "curl")
COMPILERS = ("ptxas", "nvcc", "protoc", "cc1", "*.a", "*.h", "pip", "uv")
PROBE = """
import socket, sys
for at in sys.argv[1:]:
    host, _, port = at.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 3).close()
        print(at, "reached")
    except OSError as error:
        print(at, "not reached:", error)
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image, built from this checkout, and a Docker daemon that has it."""
    install()
    with daemon(tmp_path_factory.mktemp("docker")):
        base_image()
        build_image(IMAGE)
        yield IMAGE


@pytest.fixture(scope="module")
def up(image: str) -> Iterator[str]:
    """What `docker-compose up` showed; containers, networks and volumes are gone in the end."""
    assert f"image: {image}\n" in COMPOSE.read_text(encoding="utf-8")
    compose("down", "--volumes")
    try:
        yield compose("up", "--no-color", timeout=1500)
    finally:
        compose("down", "--volumes")


@pytest.fixture
def listener() -> Iterator[int]:
    """A port on which this machine answers everybody."""
    with socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104, that is the question

        def answer() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_the_image_is_not_root_s(image: str) -> None:
    """Commands in the image run as a user who is not root and cannot become it."""
    assert int(run_in(image, "id", "-u")) > 0
    assert "Permission denied" in run_in(image, "touch", "/opt/fedmoap/x")


def test_the_image_builds_nothing(image: str) -> None:
    """Neither compilers, installers nor what they work with is in the image; fedmoap is."""
    there = run_in(image, "sh", "-c", f"for name in {' '.join(TOOLS)}; do command -v $name; done")
    assert not there.split()
    names = " -o ".join(f"-name '{name}'" for name in COMPILERS)
    assert not run_in(image, "sh", "-c", f"find /usr /opt -type f \\( {names} \\) 2>/dev/null").split()
    assert "flower-client" in run_in(image, "flower-client", "--help")


def test_up_ends_with_the_table(up: str) -> None:
    """`docker-compose up` ends by itself and well, and has shown each site's accuracy and the summary."""
    shown = [line.partition("| ")[2] for line in up.splitlines() if re.match(r"run[_-]1 ", line)]
    table = "\n".join(shown[next(i for i, line in enumerate(shown) if "seed 0, round 3" in line) :])
    for site in SITES:
        assert re.search(rf"│ {site} +│ {site} +│ +50 │ +738 │ +323 │ +\d+\.\d\d │", table), up
    assert re.search(r"^ *pfedmoap +1 ", table, re.MULTILINE)
    ended = re.findall(rf"^(?:{PROJECT}[_-])?(\S+)[_-]1 exited with code (\d+)", up, re.MULTILINE)
    assert sorted(ended) == sorted((name, "0") for name in (*SITES, "superlink", "run"))


@pytest.mark.usefixtures("up")
def test_up_can_be_repeated() -> None:
    """A second `up` on the same keys and data ends as well, with the run's status for a script."""
    again = compose("up", "--no-color", "--exit-code-from", "run", timeout=1500)
    assert "seed 0, round 3" in again
    assert "fluent-3d: registered" in again
    assert "written: /site" not in again


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize("site", SITES)
def test_a_site_holds_its_own_alone(site: str) -> None:
    """A site has its own key, which nobody else may read, its own pictures, and no other volume but the notices."""
    mounts = json.loads(call("docker", "inspect", "--format", "{{json .Mounts}}", container(site)))
    assert {(mount["Name"].split("_", 1)[1], mount["Destination"]) for mount in mounts} == {
        (site, "/site"),
        ("notices", "/notices"),
    }
    seen = compose(
        "run", "--rm", "--no-deps", "-T", site, "sh", "-c", "ls /site/images /site/sites; stat -c %a /site/s*/*"
    )
    assert [line for line in seen.splitlines() if line in SITES] == [site, site]
    assert "600" in seen.splitlines()
    kept = compose("run", "--rm", "--no-deps", "-T", site, "sh", "-c", "find /site/images /notices -type f")
    assert kept.count(f"/{site}/train/") == 738
    assert kept.count(f"/{site}/test/") == 323
    notices = {line for line in kept.splitlines() if line.startswith("/notices")}
    assert notices == {"/notices/ca.crt", "/notices/over", *(f"/notices/sites/{name}.pub" for name in SITES)}


@pytest.mark.usefixtures("up")
def test_a_site_reaches_nothing_else(image: str, listener: int) -> None:
    """What an ordinary container reaches of this machine, a site does not; nor names, nor the administration's port."""
    asked = [f"{address}:{listener}" for address in call("hostname", "-I").split() if "." in address]
    assert "not reached" not in run_in(image, "python", "-c", PROBE, *asked)
    compose("up", "--detach", "superlink")
    try:
        wait = (
            "until python -c \"import socket; socket.create_connection(('superlink', 9092), 2)\" 2>&-; do sleep 1; done"
        )
        inside = ["run", "--rm", "--no-deps", "-T", SITES[0]]
        compose(*inside, "timeout", "60", "sh", "-c", wait)
        told = compose(*inside, "python", "-c", PROBE, "superlink:9092", "superlink:9093", "example.org:443", *asked)
    finally:
        compose("stop")
    assert "superlink:9092 reached" in told
    for at in ("superlink:9093", "example.org:443", *asked):
        assert f"{at} not reached" in told


def container(site: str) -> str:
    """The site's container, stopped or not."""
    labels = (f"project={PROJECT}", f"service={site}")
    filters = [f"--filter=label=com.docker.compose.{label}" for label in labels]
    return call("docker", "ps", "--all", "--quiet", *filters).split()[0]
