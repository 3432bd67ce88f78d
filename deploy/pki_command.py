"""`fedmoap pki`: the keys and certificates of a federation."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.errors import RunError

pki = typer.Typer(name="pki", help="Make and hand out the keys and certificates of a federation.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--out", help="Folder of the federation's keys and certificates.")]


@pki.command()
def init(
    host: Annotated[
        list[str], typer.Option("--host", help="Name or address under which sites reach the server; repeatable.")
    ],
    out: Folder = Path("pki"),
    days: Annotated[int, typer.Option("--days", min=1, help="How long the certificates are valid.")] = 825,
) -> None:
    """Make an authority and the server's certificate."""
    from deploy.pki import CA, CA_KEY, SERVER, SERVER_KEY, make_authority

    for path in make_authority(out, host, days=days):
        _say(f"written: {path}")
    _say(f"sites get {CA}; the SuperLink gets {CA}, {SERVER} and {SERVER_KEY}; keep {CA_KEY} to yourself")


@pki.command()
def site(
    name: Annotated[str, typer.Argument(help="The site's name, the same as in its flower-client --name.")],
    out: Folder = Path("pki"),
) -> None:
    """Make a site's key pair."""
    from deploy.pki import make_site

    private, public = make_site(out, name)
    _say(f"written: {private} (for {name} alone) and {public} (for `fedmoap pki register`)")


@pki.command()
def register(
    superlink: Annotated[str, typer.Argument(help="Name of the SuperLink in Flower's config.toml.")],
    names: Annotated[list[str] | None, typer.Argument(help="Sites to register; all of the folder's if none.")] = None,
    out: Folder = Path("pki"),
) -> None:
    """Hand sites' public keys to a running SuperLink, which lets in nobody else."""
    from deploy.flower import ask
    from deploy.pki import public_keys

    for name, path in public_keys(out, names or []).items():
        try:
            ask("supernode", "register", str(path.absolute()), superlink)
        except RunError as error:
            if "already" not in str(error).lower():
                raise
            _say(f"{name}: was registered before")
        else:
            _say(f"{name}: registered")


def _say(line: str) -> None:
    Console().print(line, highlight=False, soft_wrap=True)
