"""Runs as the commands start, resume, compare and show them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from common.atomic import replacing
from common.config import RunConfig
from common.methods import METHODS, parse_config
from common.record import FILE_NAME, Record
from common.world import assignment_of, clip_of, task_of, views_of
from deploy.figures import draw_accuracy, draw_experts
from deploy.interrupt import Interrupted
from deploy.live import Live
from deploy.report import UNSEEN, clients_table, comparison, heading, markdown, summarise
from deploy.simulate import simulate


@dataclass(frozen=True)
class Resources:
    """What one client takes of this machine, and whether the libraries below may talk."""

    cpus_per_client: float
    gpus_per_client: float
    verbose: bool


def start_run(config: RunConfig, resources: Resources, console: Console) -> Record:
    """The record of a new run.

    Raises:
        ValueError: the configuration cannot be run, or its folder holds another run; one line.
        RunError: the run failed; what was done before is on disk.
        Interrupted: a signal asked us to end; as with RunError.
    """
    if config.federation.sites:
        raise ValueError(f"federation.sites = {config.federation.sites}: real sites are reached by --superlink")
    config = config.placed()
    if not config.resume and (Path(config.out) / FILE_NAME).exists():
        raise ValueError(f"{config.out}: holds another run; go on with it by --resume, or name another --out")
    try:
        with console.status("opening data and model"):
            assignment_of(config)
            clip_of(config)
        views_of(config, task_of(config), progress=True)
        with Live(console) as progress:
            return simulate(
                config,
                progress,
                cpus_per_client=resources.cpus_per_client,
                gpus_per_client=resources.gpus_per_client,
                verbose=resources.verbose,
            )
    except Interrupted as stop:
        if (Path(config.out) / FILE_NAME).exists():
            raise Interrupted(stop.number, f"go on by --resume {config.out}") from None
        raise


def resume_run(folder: Path, resources: Resources, console: Console) -> Record:
    """The record of a run that was interrupted, ended with the same numbers as if it had not been.

    Raises:
        ValueError: there is no run in the folder; one line.
    """
    record = Record.load(folder)
    if record.finished:
        console.print(f"{folder}: is finished already")
        return record
    flat = record.config | {"resume": True, "out": str(folder.absolute())}
    return start_run(parse_config(flat), resources, console)


def compare_runs(configs: Sequence[RunConfig], resources: Resources, console: Console) -> list[Record]:
    """The records of all configurations; finished runs are read, interrupted ones resumed, the rest started.

    Raises:
        ValueError: a folder holds a run of another configuration; names the folder and the first difference.
    """
    records = []
    for config in configs:
        folder = Path(config.out)
        if not (folder / FILE_NAME).exists():
            records.append(start_run(config, resources, console))
            continue
        found, wanted = Record.load(folder).config, config.flat()
        for key in wanted.keys() - {"out", "resume"}:
            if found.get(key) != wanted[key]:
                raise ValueError(
                    f"{folder}: holds a run with {key} = {found.get(key)!r}, not {wanted[key]!r}; name another --out"
                )
        records.append(resume_run(folder, resources, console))
    return records


def load_records(paths: Sequence[Path]) -> list[Record]:
    """The records in these folders of runs, or folders that hold such folders; by method and seed.

    Raises:
        ValueError: there is no run in one of them; names it.
    """
    records = []
    for path in paths:
        inside = sorted(found.parent for found in path.glob(f"*/{FILE_NAME}"))
        records += [
            Record.load(folder) for folder in (inside if inside and not (path / FILE_NAME).exists() else [path])
        ]
    order = {method: place for place, method in enumerate(METHODS)}
    return sorted(records, key=lambda record: (order.get(record.method, len(order)), record.seed))


def show_run(record: Record, console: Console) -> None:
    """Prints the clients' accuracies and the run's summary."""
    console.print(clients_table(record))
    console.print(comparison(summarise([record]), heading([record])))
    console.print(f"record: {Path(str(record.config['out'])) / FILE_NAME}", soft_wrap=True)


def show_comparison(records: Sequence[Record], folder: Path, console: Console) -> None:
    """Prints the comparison and writes it, with its figures, into the folder."""
    summaries, title = summarise(records), heading(records)
    console.print(comparison(summaries, title))
    with replacing(folder / "comparison.md") as beside:
        beside.write_text(markdown(summaries, title), encoding="utf-8")
    figures = [
        draw_accuracy(records, folder / "accuracy.png"),
        draw_accuracy(records, folder / "unseen.png", UNSEEN),
        draw_experts(records, folder / "experts.png"),
    ]
    written = [folder / "comparison.md", *(path for path in figures if path)]
    console.print("written: " + ", ".join(str(path) for path in written), soft_wrap=True)
