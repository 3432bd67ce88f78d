"""Keeps a SuperNode running: started again when it ends, ended with all of its children when we are told to."""

import ctypes
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from common.atomic import replacing
from common.errors import RunError
from common.site_options import SiteOptions
from deploy.flower import Process, launch, toml
from deploy.interrupt import SIGNALS, heed_no_more
from deploy.site_checks import Connection

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
LONG_ENOUGH = 120.0
"""Seconds after which a SuperNode that ended counts as one that had run well."""
GRACE = 10.0
PROBE_SECONDS = 10.0
TOUCH_SECONDS = 5.0
UNTIL_MISSED = TOUCH_SECONDS + 60.0 + 5.0
"""Seconds from the last sign of life of a SuperNode that was killed to its end being known: the SuperLink misses it
after two heartbeats of 30 s, and the server, which looks every second, then learns of it."""
_PDEATHSIG = 1
_NOT_LET_IN = '"code": 2004'
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_REASON = re.compile(r"(?:details = |Exit Code: |ERROR\s*:\s*(?!<))(?P<reason>.+)")

Say = Callable[[str], None]


class Stopped(BaseException):
    """A signal asked us to end."""


class Trace:
    """A file that is touched while a SuperNode runs and is gone when one ended in order: what a kill leaves behind.

    Until the SuperLink misses a killed SuperNode, it refuses another with the same key. One let in right after that,
    before the server looked, would leave the server waiting for an answer that nobody works at.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def touch(self) -> None:
        """Says that a SuperNode runs now."""
        self.path.touch(mode=0o600)

    def remove(self) -> None:
        """Says that it told the SuperLink that it ends."""
        self.path.unlink(missing_ok=True)

    def seconds_to_wait(self) -> float:
        """Until everybody knows that one was killed; 0 where none was, or long ago."""
        try:
            age = time.time() - self.path.stat().st_mtime
        except FileNotFoundError:
            return 0
        return max(0, UNTIL_MISSED - max(0, age))


def supervise(options: SiteOptions, link: Connection, say: Say, *, verbose: bool) -> None:
    """Runs the site's SuperNode until SIGTERM or SIGINT; a second one does not cut its end short.

    Raises:
        RunError: the server's certificate is not the authority's or not for that host, which waiting does not cure.
    """
    for number in SIGNALS:
        signal.signal(number, _stop)
    node_config = Path(options.state) / "node.toml"
    with replacing(node_config) as beside:
        beside.write_text(toml(options.model_dump(by_alias=True)))
    trace = Trace(Path(options.state) / "running")
    pause, told = FIRST_PAUSE, ""
    try:
        while True:
            if seconds := 0 if link.insecure else trace.seconds_to_wait():
                say(f"{options.name}: was killed, and the SuperLink has yet to miss it; starting in {seconds:.0f} s")
                time.sleep(seconds)
            if reason := _obstacle(link):
                if reason != told:
                    say(f"{options.name}: {reason}; waiting for it")
                told = reason
            else:
                if not told.startswith("the SuperNode"):
                    say(f"{options.name}: connecting to {link.superlink}")
                started = time.monotonic()
                reason = f"the SuperNode ended ({attend(_command(link, node_config), trace, say, verbose=verbose)})"
                pause = FIRST_PAUSE if time.monotonic() - started > LONG_ENOUGH else pause
                if reason != told:
                    say(f"{options.name}: {reason}; starting it again until it stays")
                told = reason
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
    except Stopped:
        say(f"{options.name}: stopped")


def _stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    heed_no_more()
    raise Stopped


def _obstacle(link: Connection) -> str:
    """Why the SuperLink cannot be talked to at the moment; nothing where it can.

    Raises:
        RunError: it shows a certificate that is not to be trusted.
    """
    host, _, port = link.superlink.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS) as plain:
            if link.insecure:
                return ""
            context = ssl.create_default_context(cafile=link.ca)
            context.set_alpn_protocols(["h2"])
            with context.wrap_socket(plain, server_hostname=host.strip("[]")):
                return ""
    except ssl.SSLCertVerificationError as error:
        raise RunError(f"{link.superlink}: its certificate is not trusted ({error.verify_message})") from None
    except ssl.SSLError as error:
        return f"no TLS at {link.superlink} ({error.reason})"
    except OSError as error:
        return f"no SuperLink at {link.superlink} ({error.strerror or error})"


def _command(link: Connection, node_config: Path) -> list[str]:
    command = [str(Path(sys.executable).with_name("flower-supernode")), "--superlink", link.superlink]
    command += ["--clientappio-api-address", "127.0.0.1:0", "--node-config", str(node_config)]
    if link.insecure:
        return [*command, "--insecure"]
    return [*command, "--root-certificates", str(link.ca), "--auth-supernode-private-key", str(link.key)]


def attend(command: list[str], trace: Trace, say: Say, *, verbose: bool) -> str:
    """Runs a SuperNode and says why it ended. It and all that it started are gone in any case."""
    guard = _die_with_parent if sys.platform == "linux" else None  # one system call
    process = launch(command, start_new_session=True, preexec_fn=guard)
    last = [""]
    reader = threading.Thread(target=_relay, args=(process, say, last, verbose), daemon=True)
    reader.start()
    try:
        _watch(process, trace, last)
    finally:
        _end(process)
        if process.returncode != -signal.SIGKILL or _NOT_LET_IN in last[0]:
            trace.remove()
    reader.join(GRACE)
    if _NOT_LET_IN in last[0]:
        return "the SuperLink does not know this key, or still takes the node for running; see `fedmoap pki register`"
    return last[0] or f"status {process.returncode}"


def _watch(process: Process, trace: Trace, last: list[str]) -> None:
    """Returns when the SuperNode ended, or ought to: one that is refused sometimes hangs in gRPC on its way out."""
    while process.poll() is None:
        trace.touch()
        with suppress(subprocess.TimeoutExpired):
            process.wait(TOUCH_SECONDS)
            return
        if _NOT_LET_IN in last[0]:
            return


def _relay(process: Process, say: Say, last: list[str], verbose: bool) -> None:
    """Passes on what a site's owner wants to see; keeps the last thing that sounded like a reason."""
    if process.stdout is None:
        return
    with process.stdout as lines:
        for raw in lines:
            line = _COLOUR.sub("", raw).strip()
            if found := _REASON.search(line):
                last[0] = found.group("reason").strip()
            if verbose or line.startswith(("fedmoap", "the server refused")):
                say(line)


def _end(process: Process) -> None:
    """Ends the whole process group: politely, then for good."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and _alive(process):
            time.sleep(0.05)
    process.wait()


def _alive(process: Process) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _die_with_parent() -> None:
    """A SuperNode must not outlive a supervisor that was killed; its own children watch it in turn."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)
