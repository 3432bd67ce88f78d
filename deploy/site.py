"""`flower-client`: one site of a federation, a front to Flower's SuperNode that knows what a site needs."""

import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.entry import run_command

OWNER_ALONE = 0o077
"""Mode bits that nothing a site writes may have."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def site(
    config: Annotated[Path | None, typer.Option("--config", help="TOML file of these options, without dashes.")] = None,
    superlink: Annotated[str | None, typer.Option("--superlink", help="HOST:PORT of the server, port 9092.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The site's own name.")] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Folder per class, parquet or Arrow file, hf:NAME.")
    ] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="Certificate of the federation's authority.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="The site's private key.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="Folder for private state and features.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = None,
    domain: Annotated[str | None, typer.Option("--domain", help="Domain that all of the images are of.")] = None,
    test_share: Annotated[
        float | None, typer.Option("--test-share", help="Share for testing, where there is no test part.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="The CLIP, the same as the server's clip.model.")] = None,
    pretrained: Annotated[str | None, typer.Option("--pretrained", help="Weights tag or checkpoint file.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Neither TLS nor a key: for trials on one machine.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check, and connect to nobody.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show all that Flower logs.")] = False,
) -> None:
    """Take part in a federation with this machine's images, until it is stopped."""
    given = {
        "superlink": superlink,
        "name": name,
        "data": data,
        "ca": ca and str(ca),
        "key": key and str(key),
        "state": state,
        "device": device,
        "domain": domain,
        "test-share": test_share,
        "model": model,
        "pretrained": pretrained,
        "insecure": insecure or None,
    }
    os.umask(OWNER_ALONE)
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from deploy.site_checks import examine, options_of
    from deploy.supervise import supervise

    options, link = options_of(_read(config) | {key: value for key, value in given.items() if value is not None})
    found, problems = examine(options, link)
    if problems:
        for problem in problems:
            _say(f"error: {problem}")
        sys.exit(1)
    for line in found:
        _say(line)
    if link.insecure:
        _say("WARNING: --insecure: no TLS and no key; anybody on the way can read and change what is sent")
    if check:
        return
    supervise(options, link, _say, verbose=verbose)


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main() -> None:
    """The console script."""
    run_command(app)


if __name__ == "__main__":
    main()
