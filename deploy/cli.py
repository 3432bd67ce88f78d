"""`fedmoap`: run, compare and report federations from the command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.errors import RunError
from common.record import Record
from deploy.runs import Resources, compare_runs, resume_run, show_comparison, show_run, start_run
from deploy.settings import configure, recipe_names

app = typer.Typer(
    name="fedmoap",
    help="Federated learning of CLIP-like models in which only prompts and small adapters are trained and travel.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console()
errors = Console(stderr=True)

Settings = Annotated[
    list[str], typer.Option("-c", "--set", metavar="KEY=VALUE", help="Set one configuration key; repeatable.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the logs of Flower and Ray, and whole tracebacks.")]
Root = Annotated[str | None, typer.Option("--root", help="Folder that holds local copies of data sets.")]
Cpus = Annotated[float, typer.Option("--cpus-per-client", min=0.1, help="CPU cores that one client takes.")]
Gpus = Annotated[
    float, typer.Option("--gpus-per-client", min=0.0, help="GPUs, or a share of one, that one client takes.")
]


@contextmanager
def one_line_errors(*, verbose: bool) -> Iterator[None]:
    """Ends the command with status 1 and one line instead of a traceback, unless `verbose`."""
    try:
        yield
    except Exception as error:
        if verbose:
            raise
        expected = isinstance(error, ValueError | RunError)
        kind = "" if expected else f"{type(error).__name__}: "
        hint = "" if expected else " (--verbose shows where)"
        message = " ".join(str(error).split())
        errors.print(f"[red]error:[/] {kind}{message}{hint}", highlight=False, markup=True, soft_wrap=True)
        raise typer.Exit(1) from None


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help=f"A recipe ({', '.join(recipe_names())}) or a TOML file.")] = "",
    settings: Settings = [],  # noqa: B006, typer copies it
    method: Annotated[str | None, typer.Option("--method", help="The federated method.")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", help="Rounds of training.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of everything that is drawn.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="Folder for record and checkpoint.")] = None,
    root: Root = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with the run in this folder.")] = None,
    cpus_per_client: Cpus = 1.0,
    gpus_per_client: Gpus = 0.0,
    verbose: Verbose = False,
) -> None:
    """Simulate a federation on this machine, and leave its record and checkpoint behind."""
    resources = Resources(cpus_per_client, gpus_per_client, verbose)
    with one_line_errors(verbose=verbose):
        if resume is not None:
            record = resume_run(resume, resources, console)
        else:
            given = {"method": method, "rounds": rounds, "seed": seed, "out": out, "data.root": root}
            record = start_run(configure(recipe, settings, given), resources, console)
        show_run(record, console)


@app.command()
def compare(
    recipe: Annotated[str, typer.Argument(help="A recipe or a TOML file.")] = "",
    methods: Annotated[str, typer.Option("--methods", help="Methods, separated by commas.")] = (
        "zeroshot,coop,promptfl,pfedmoap"
    ),
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds: 0, 1, ...")] = 1,
    settings: Settings = [],  # noqa: B006, typer copies it
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs, the table and the figures.")] = (
        Path("runs/compare")
    ),
    root: Root = None,
    cpus_per_client: Cpus = 1.0,
    gpus_per_client: Gpus = 0.0,
    verbose: Verbose = False,
) -> None:
    """Run several methods and seeds on the same partitions and compare them. Finished runs are not run again."""
    resources = Resources(cpus_per_client, gpus_per_client, verbose)
    with one_line_errors(verbose=verbose):
        configs = [
            configure(
                recipe,
                settings,
                {"method": method.strip(), "seed": seed, "out": str(out / f"{method.strip()}-seed{seed}"), "data.root": root},
            )
            for seed in range(seeds)
            for method in methods.split(",")
        ]
        records = compare_runs(configs, resources, console)
        show_comparison(records, out, console)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold such folders.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the table and the figures.")] = None,
    verbose: Verbose = False,
) -> None:
    """Make tables and figures again, from records alone."""
    with one_line_errors(verbose=verbose):
        folders = [found for path in runs for found in _run_folders(path)]
        records = [Record.load(folder) for folder in folders]
        if len(records) == 1:
            show_run(records[0], console)
        show_comparison(records, out or (runs[0] if runs[0].is_dir() else runs[0].parent), console)


def _run_folders(path: Path) -> list[Path]:
    inside = sorted(found.parent for found in path.glob("*/record.json"))
    return inside if inside and not (path / "record.json").exists() else [path]


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
