"""A deployed federation of real processes on loopback: SuperLink, sites and runs, all ended with their children."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.record import Record
from deploy.interrupt import descendants
from deploy.pki import make_authority, make_site
from tests.conftest import CLASSES

PATIENCE = 400.0
ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class Deployment:
    """One SuperLink, with TLS and registered keys unless it is insecure, and what was started with it."""

    root: Path
    settings: Mapping[str, Any]
    """Of every run."""
    insecure: bool = False
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fleet, self.control, self.runtime = free_ports(3)
        self.pki = self.root / "pki"
        self.home = self.root / "flwr"
        self.home.mkdir(parents=True)
        make_authority(self.pki, ["127.0.0.1"])
        config = f'[superlink.real]\naddress = "127.0.0.1:{self.control}"\n'
        config += "insecure = true\n" if self.insecure else f'root-certificates = "{self.pki / "ca.crt"}"\n'
        (self.home / "config.toml").write_text(config, encoding="utf-8")
        self.environment = os.environ | {
            "FLWR_HOME": str(self.home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }

    def start(self, name: str, command: Sequence[str], **environment: str) -> "subprocess.Popen[bytes]":
        """Starts a process in a group of its own, its output in a file."""
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment | environment,
                start_new_session=True,
                cwd=self.root,
            )
        return self.processes[name]

    def log(self, name: str) -> Path:
        """Where a process's output goes."""
        return self.root / f"{name}.log"

    def said(self, name: str) -> str:
        """A process's output so far."""
        return self.log(name).read_text(encoding="utf-8", errors="replace")

    def superlink(self) -> None:
        """Starts the SuperLink and waits until it listens."""
        tls = [f"--ssl-ca-certfile={self.pki / 'ca.crt'}", f"--ssl-certfile={self.pki / 'server.crt'}"]
        tls += [f"--ssl-keyfile={self.pki / 'server.key'}", "--enable-supernode-auth"]
        tls = ["--insecure"] if self.insecure else tls
        addresses = {"fleet": self.fleet, "control": self.control, "serverappio": self.runtime}
        bind = [f"--{name}-api-address=127.0.0.1:{port}" for name, port in addresses.items()]
        database = f"--database={self.root / 'superlink.db'}"
        command = [str(BIN / "flower-superlink"), *tls, *bind, database, "--disable-runtime-dependency-installation"]
        process = self.start("superlink", command)
        wait_for(lambda: listens(self.control) and listens(self.fleet), 90, alive=process)

    def register(self, *names: str) -> None:
        """Makes the sites' keys and registers them."""
        for name in names:
            make_site(self.pki, name)
        done = self.fedmoap("pki", "register", "real", *names, "--out", str(self.pki), timeout=150)
        assert done.returncode == 0, done.stdout + done.stderr

    def site(self, name: str, data: Path, *more: str, as_: str = "") -> None:
        """Starts a site."""
        own = as_ or name
        self.start(f"site-{own}", [sys.executable, "-m", "deploy.site", *self.site_options(name, data, own), *more])

    def site_options(self, name: str, data: Path, own: str) -> list[str]:
        """What a site is started with; `own` distinguishes sites of the same name."""
        options = {
            "superlink": f"127.0.0.1:{self.fleet}",
            "name": name,
            "data": str(data),
            "state": str(self.root / "state" / own),
            "model": str(self.settings["clip.model"]),
            "device": "cpu",
        }
        keys = [f"--ca={self.pki / 'ca.crt'}", f"--key={self.pki / 'sites' / own}"]
        return [*(f"--{key}={value}" for key, value in options.items()), *(["--insecure"] if self.insecure else keys)]

    def fedmoap(self, *arguments: str, timeout: float) -> "subprocess.CompletedProcess[str]":
        """One of our commands."""
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli", *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            cwd=self.root,
        )

    def run_command(self, out: Path, *more: str, **changes: object) -> list[str]:
        """The command line of a run on the sites; `changes` are keys with `__` for a dot and `_` for a dash."""
        given = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
        sets = [part for key, value in {**self.settings, **given}.items() for part in ("-c", f"{key}={value}")]
        return ["run", "--superlink", "real", "--out", str(out), *sets, *more]

    def kill(self, name: str) -> None:
        """kill -9 of a process, as a power cut takes it: with all of its children."""
        process = self.processes.pop(name)
        for pid in [*descendants(process.pid), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def at_work(self, name: str) -> bool:
        """Whether a site has a ClientApp: one runs for each message."""
        return any("flwr-clientapp" in command_line(pid) for pid in descendants(self.processes[name].pid))

    def end(self, name: str) -> None:
        """Ends a process as its user would, and waits for it."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait(60)

    def stop(self) -> list[str]:
        """Ends everything as its user would; command lines of what was left behind, which is killed."""
        children = {name: descendants(process.pid) for name, process in self.processes.items()}
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
        deadline = time.monotonic() + 20
        pids = {pid for name in children for pid in children[name]}
        while pids and time.monotonic() < deadline:
            pids = {pid for pid in pids if running(pid)}
            time.sleep(0.2)
        left = [f"{pid}: {command_line(pid)}" for pid in pids]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.processes.clear()
        return left


def of_sites(settings: Mapping[str, Any], folder: Path, count: int) -> dict[str, Any]:
    """The same configuration for so many real sites, of whose pictures the server has the class names alone."""
    classes = folder / "classes.txt"
    classes.write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    kept = {key: value for key, value in settings.items() if not key.startswith(("partition.", "data.name"))}
    return kept | {
        "data.classes": str(classes),
        "clip.device": "cpu",
        "federation.sites": count,
        "federation.clients-wait": PATIENCE,
    }


def wait_for(
    done: Callable[[], object], seconds: float, alive: "subprocess.Popen[Any] | None" = None, *, every: float = 0.1
) -> None:
    """Returns when it is done; fails after `seconds`, or when the process that should do it has ended."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not done in {seconds} s"
        assert alive is None or alive.poll() is None, f"ended with status {alive and alive.returncode}"
        time.sleep(every)


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def rounds_done(out: Path) -> int:
    """Completed rounds of the run in the folder."""
    return len(Record.load(out).rounds) if (out / "record.json").exists() else -1


def running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def command_line(pid: int) -> str:
    """What a process was started as."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
