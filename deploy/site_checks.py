"""What a site can know to be wrong before it connects, and what it has."""

import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.clip import load_clip
from common.config import Scalar, nearest
from common.data import load_site
from common.features import image_features
from common.listing import PARTS, holds_table, image_files
from common.site_options import SiteOptions, parse_site
from common.world import device_of

T = TypeVar("T")
_LINK = ("superlink", "ca", "key", "insecure")


@dataclass(frozen=True)
class Connection:
    """Where the server is, and how each side knows the other."""

    superlink: str
    ca: Path | None
    key: Path | None
    insecure: bool


def options_of(given: dict[str, Scalar]) -> tuple[SiteOptions, Connection]:
    """The site's options and its connection; paths made absolute.

    Raises:
        ValueError: an option is missing, unknown or out of range; one line.
    """
    known = [*_LINK, *(str(info.alias) for info in SiteOptions.model_fields.values())]
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"unknown option {unknown[0]!r}{nearest(unknown[0], known)}")
    _check_types(given)
    if missing := [f"--{key}" for key in ("superlink", "name", "data") if not given.get(key)]:
        raise ValueError(f"{', '.join(missing)}: must be given")
    insecure = given.get("insecure", False) is True
    files = {key: Path(str(given[key])).expanduser().absolute() if given.get(key) else None for key in ("ca", "key")}
    if not insecure and (missing := [f"--{key}" for key, path in files.items() if not path]):
        raise ValueError(f"{', '.join(missing)}: must be given; or --insecure, for trials on one machine")
    host, _, port = str(given["superlink"]).rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--superlink {given['superlink']!r}: must be HOST:PORT, such as {given['superlink']}:9092")
    own = {key: value for key, value in given.items() if key not in _LINK}
    own.setdefault("state", f"~/.local/state/fedmoap/{given['name']}")
    own["state"] = str(Path(str(own["state"])).expanduser().absolute())
    if Path(str(own["data"])).expanduser().exists():
        own["data"] = str(Path(str(own["data"])).expanduser().absolute())
    link = Connection(str(given["superlink"]), files["ca"], files["key"], insecure)
    return parse_site(own), link


def _check_types(given: Mapping[str, object]) -> None:
    """Raises ValueError where a file gives no text or, for `insecure`, no boolean: "false" must not mean true."""
    for key in given.keys() & {"superlink", "data", "ca", "key", "state"}:
        if not isinstance(given[key], str):
            raise ValueError(f"--{key}: {given[key]!r}: must be text, in quotes")  # noqa: TRY004, a file's fault
    if not isinstance(given.get("insecure", False), bool):
        raise ValueError(f"--insecure: {given['insecure']!r}: must be true or false, without quotes")  # noqa: TRY004, as above


def examine(options: SiteOptions, link: Connection) -> tuple[list[str], list[str]]:
    """(what there is, what is wrong), each a line; features are encoded where nothing is wrong."""
    problems: list[str] = []

    def tried(look: Callable[[], T]) -> T | None:
        try:
            return look()
        except (ValueError, OSError) as error:
            problems.append(" ".join(str(error).split()))
            return None

    tried(lambda: _open_state(Path(options.state)))
    if not link.insecure:
        tried(lambda: _check_ca(link.ca))
        tried(lambda: _check_key(link.key))
    device = tried(lambda: device_of(options.device))
    problems += _empty_classes(Path(options.data).expanduser())
    task = None if problems else tried(lambda: load_site(options.data, cache=options.cache, domain=options.domain))
    cache = Path(options.cache)
    clip = tried(lambda: load_clip(options.model, options.pretrained, device=device or "cpu", cache=cache))
    for part, rows in (("train on", ~task.test), ("test on", task.test)) if task else ():
        if not rows.any() and not options.domain:  # a run that leaves the domain out asks less of its site
            problems.append(f"--data {options.data}: no image to {part} among its {len(rows)}")
    if problems or task is None or clip is None:
        return [], problems
    counts = [int((task.column("label") == label).sum()) for label in range(len(task.class_names))]
    found = [
        f"site {options.name}" + (f", domain {options.domain}" if options.domain else ""),
        f"data {options.data}: {len(task.test)} images of {len(task.class_names)} classes: "
        + ", ".join(f"{name} {count}" for name, count in zip(task.class_names, counts, strict=True)),
        *task.notes,
        f"device {device}, CLIP {options.model} with fingerprint {clip.fingerprint}",
    ]
    tried(
        lambda: image_features(
            lambda: clip, clip.feature_fingerprint, task.data, task.content, cache=cache, progress=True
        )
    )
    return found, problems


def _open_state(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    probe = folder / ".writable"
    probe.touch()
    probe.unlink()


def _check_ca(path: Path | None) -> None:
    if path is None:
        raise ValueError("--ca: must be given")
    try:
        x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ValueError(f"--ca {path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise ValueError(f"--ca {path}: is no PEM certificate") from None


def _check_key(path: Path | None) -> None:
    if path is None:
        raise ValueError("--key: must be given")
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise ValueError(f"--key {path}: cannot be read ({error.strerror})") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"--key {path}: others may read it; `chmod 600 {path}`")
    try:
        key = serialization.load_ssh_private_key(content, None)
    except (ValueError, TypeError):
        raise ValueError(f"--key {path}: is no private key of `fedmoap pki site`") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"--key {path}: is no elliptic-curve key; `fedmoap pki site` makes one")  # noqa: TRY004, a file's fault


def _empty_classes(folder: Path) -> Iterator[str]:
    """A line for every class folder without an image."""
    if not folder.is_dir() or holds_table(folder):
        return
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    parts = [path for path in inside if path.name.lower() in PARTS]
    if len(parts) > 1 and len(parts) == len(inside):
        inside = [path for part in parts for path in sorted(part.iterdir()) if path.is_dir()]
    for path in inside:
        if next(image_files(path), None) is None:
            yield f"{path}: no image in this class folder"
