"""`fedmoap`: run, compare and report federations from the command line."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.entry import run_command

app = typer.Typer(
    name="fedmoap",
    help="Federated learning of CLIP-like models in which only prompts and small adapters are trained and travel.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Recipe = Annotated[str, typer.Argument(help="A recipe that `fedmoap recipes` lists, or a TOML file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("-c", "--set", metavar="KEY=VALUE", help="Set a key that `fedmoap options` lists; repeatable."),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the logs of Flower and Ray, and whole tracebacks.")]
Root = Annotated[str | None, typer.Option("--root", help="Folder that holds local copies of data sets.")]
Named = Annotated[str, typer.Option("--recipe", help="The same as RECIPE.")]
Cpus = Annotated[float, typer.Option("--cpus-per-client", min=0.1, help="CPU cores that one client takes.")]
Gpus = Annotated[
    float, typer.Option("--gpus-per-client", min=0.0, help="GPUs, or a share of one, that one client takes.")
]


@app.command()
def run(
    recipe: Recipe = "",
    named: Named = "",
    settings: Settings = None,
    method: Annotated[str | None, typer.Option("--method", help="The federated method.")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", help="Rounds of training.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of everything that is drawn.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="Folder for record and checkpoint.")] = None,
    root: Root = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with the run in this folder.")] = None,
    superlink: Annotated[
        str | None, typer.Option("--superlink", help="Run on the sites of this SuperLink of Flower's config.toml.")
    ] = None,
    sites: Annotated[int | None, typer.Option("--sites", help="Real sites that must be there.")] = None,
    cpus_per_client: Cpus = 1.0,
    gpus_per_client: Gpus = 0.0,
    verbose: Verbose = False,
) -> None:
    """Run a federation, simulated on this machine or of real sites, and leave its record and checkpoint behind."""
    from deploy.remote import resume_remotely, run_remotely
    from deploy.runs import Resources, resume_run, show_run, start_run
    from deploy.settings import configure, the_recipe

    console, resources = Console(), Resources(cpus_per_client, gpus_per_client, verbose)
    given = {"method": method, "rounds": rounds, "seed": seed, "out": out, "data.root": root, "federation.sites": sites}
    if resume is not None:
        if recipe or named or settings or any(value is not None for value in given.values()):
            raise ValueError(
                "--resume goes on with the run as it was begun: no recipe or setting can be given beside it"
            )
        resumed = (
            resume_remotely(resume, superlink, console, verbose=verbose)
            if superlink
            else resume_run(resume, resources, console)
        )
        show_run(resumed, console)
        return
    config = configure(the_recipe(recipe, named), settings or [], given)
    if superlink:
        record = run_remotely(config, superlink, console, verbose=verbose)
    else:
        record = start_run(config, resources, console)
    show_run(record, console)


@app.command()
def compare(
    recipe: Recipe = "",
    named: Named = "",
    methods: Annotated[str, typer.Option("--methods", help="Methods, separated by commas.")] = (
        "zeroshot,coop,promptfl,pfedmoap"
    ),
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds: 0, 1, ...")] = 1,
    settings: Settings = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs, the table and the figures.")] = Path(
        "runs/compare"
    ),
    root: Root = None,
    cpus_per_client: Cpus = 1.0,
    gpus_per_client: Gpus = 0.0,
    verbose: Verbose = False,
) -> None:
    """Run methods and seeds on the same partitions and compare them; runs that are finished there are not repeated."""
    from deploy.runs import Resources, compare_runs, show_comparison
    from deploy.settings import configure, the_recipe

    console, resources = Console(), Resources(cpus_per_client, gpus_per_client, verbose)
    chosen = the_recipe(recipe, named)
    configs = [
        configure(
            chosen,
            settings or [],
            {"method": method, "seed": seed, "out": str(out / f"{method}-seed{seed}"), "data.root": root},
        )
        for seed in range(seeds)
        for method in methods.replace(" ", "").split(",")
    ]
    show_comparison(compare_runs(configs, resources, console), out, console)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold such folders.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the table and the figures.")] = None,
) -> None:
    """Make tables and figures again, from records alone."""
    from deploy.runs import load_records, show_comparison, show_run

    console, records = Console(), load_records(runs)
    if len(records) == 1:
        show_run(records[0], console)
    show_comparison(records, out or (runs[0] if runs[0].is_dir() else runs[0].parent), console)


@app.command()
def options(
    section: Annotated[str, typer.Argument(help="Show this section alone, such as pfedmoap.")] = "",
) -> None:
    """List every configuration key with its default and what it means."""
    from deploy.settings import options_table

    Console().print(options_table(section))


def mount() -> None:
    """Adds the commands that live in files of their own."""
    from deploy.bench import bench
    from deploy.data_command import data
    from deploy.pki_command import pki
    from deploy.recipe_table import recipes

    app.command()(data)
    app.command()(recipes)
    app.add_typer(bench)
    app.add_typer(pki)


def _everything() -> None:
    mount()
    app()


def main() -> None:
    """The console script."""
    run_command(_everything)


if __name__ == "__main__":
    main()
