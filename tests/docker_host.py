"""A machine that can build and run the containers: Docker from Debian's packages, and a base image made here.

There need be no image registry. What this machine needs to reach its packages (a proxy, a mirror, authorities of its
own) is taken over from it, into the base image and the build; none of it is in the repository.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
COMPOSE = ROOT / "deploy" / "compose.yaml"
PACKAGES = {"dockerd": "docker.io", "docker-compose": "docker-compose", "debootstrap": "debootstrap"}
PROJECT = "fedmoap-test"
"""Not the one of somebody who tries the demo here: its volumes are removed."""
LEFT_OUT = ("doc", "info", "locale", "man")
"""Below /usr/share: what the `slim` images leave out, too."""
AUTHORITIES = "etc/host-authorities.crt"
"""Where certificates that this machine trusts lie in the image."""


def call(*command: str, timeout: float = 300, fine: bool = True, **environment: str) -> str:
    """What a command wrote, both streams as one.

    Raises:
        AssertionError: it failed, and was not to.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        env=os.environ | environment,
        cwd=ROOT,
    )
    assert not fine or done.returncode == 0, f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-8000:]}"
    return done.stdout


def install() -> None:
    """Installs what is missing, from Debian's packages."""
    missing = [package for command, package in PACKAGES.items() if not shutil.which(command)]
    if missing:
        call("apt-get", "update")
        call("apt-get", "install", "--yes", *missing, timeout=900, DEBIAN_FRONTEND="noninteractive")


@contextmanager
def daemon(folder: Path) -> Iterator[None]:
    """A Docker daemon: the one that runs, else one that is stopped at the end."""
    if answers():
        yield
        return
    log = folder / "dockerd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(["dockerd"], stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: S607
    try:
        deadline = time.monotonic() + 60
        while not answers():
            said = log.read_text(errors="replace")[-4000:]
            assert process.poll() is None, f"dockerd ended with status {process.returncode}\n{said}"
            assert time.monotonic() < deadline, f"dockerd does not answer\n{said}"
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(60)


def answers() -> bool:
    """Whether there is a Docker daemon."""
    status = subprocess.run(["docker", "info"], capture_output=True).returncode  # noqa: S607
    return status == 0


def base_image() -> None:
    """Makes the Dockerfile's base image with debootstrap, where it is not there."""
    found = re.search(r"^ARG BASE=((?:\S+/)?debian:(\w+)\S*)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{DOCKERFILE}: no base image"
    name, suite = found.groups()
    if call("docker", "images", "--quiet", name).strip():
        return
    with TemporaryDirectory(prefix="debootstrap-") as folder:
        root, archive = Path(folder, "root"), Path(folder, "root.tar")
        call("debootstrap", "--variant=minbase", suite, str(root), *mirrors(suite), timeout=1200)
        take_over(root)
        for place in (*(f"usr/share/{name}" for name in LEFT_OUT), "var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / place, ignore_errors=True)
            (root / place).mkdir(parents=True)
        call("tar", "--numeric-owner", "-C", str(root), "-cf", str(archive), ".")
        call("docker", "import", "--change", 'CMD ["bash"]', str(archive), name)


def take_over(root: Path) -> None:
    """Gives a system this machine's settings of apt and the authorities it trusts, and keeps it slim."""
    slim = "".join(f"path-exclude /usr/share/{place}/*\n" for place in LEFT_OUT)
    (root / "etc" / "dpkg" / "dpkg.cfg.d" / "slim").write_text(slim, encoding="utf-8")
    settings = root / "etc" / "apt" / "apt.conf.d" / "99host"
    settings.write_text(call("apt-config", "dump", "Acquire"), encoding="utf-8")
    if authorities := pip_settings().get("cert"):
        shutil.copy(authorities, root / AUTHORITIES)


def mirrors(suite: str) -> list[str]:
    """Where this machine has packages of that release from; empty where it has none, for debootstrap's own choice."""
    lines = call("apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages").splitlines()
    return [line.split()[1] for line in lines if line.split()[:1] == [suite]][:1]


def pip_settings() -> dict[str, str]:
    """This machine's settings of pip, the environment's over the files'."""
    lines = call(sys.executable, "-m", "pip", "config", "list").splitlines()
    pairs = [found.groups() for line in lines if (found := re.fullmatch(r"(\S+)\.([a-z-]+)='(.*)'", line))]
    return {key: value for _, key, value in sorted(pairs, key=lambda pair: pair[0] == ":env:")}


def build_arguments() -> list[str]:
    """This machine's package settings as arguments of the build; folders of its own are none."""
    settings = pip_settings()
    wanted = {
        f"PIP_{key.upper().replace('-', '_')}": settings[key]
        for key in ("index-url", "extra-index-url", "default-timeout")
        if key in settings and "file:" not in settings[key]
    }
    if "cert" in settings:
        wanted["PIP_CERT"] = f"/{AUTHORITIES}"
    proxies = [name for name in os.environ if name.lower() in {"http_proxy", "https_proxy", "no_proxy"}]
    return [f"--build-arg={value}" for value in (*(f"{key}={value}" for key, value in wanted.items()), *proxies)]


def build_image(tag: str) -> None:
    """Builds the image over this machine's network; by the classic builder, which every client of Docker has."""
    options = ["--network=host", "--file", str(DOCKERFILE), "--tag", tag, *build_arguments()]
    call("docker", "build", *options, str(ROOT), timeout=3000, DOCKER_BUILDKIT="0")


def compose(*arguments: str, timeout: float = 300, fine: bool = True) -> str:
    """What Debian's docker-compose wrote: 1.29 up to Debian 12, Compose v2 after it."""
    command = ("docker-compose", "--file", str(COMPOSE), "--project-name", PROJECT)
    return call(*command, *arguments, timeout=timeout, fine=fine)


def run_in(image: str, *command: str, options: Sequence[str] = ()) -> str:
    """What a command wrote in a container of its own, which need not have ended well."""
    return call("docker", "run", "--rm", *options, image, *command, fine=False)
