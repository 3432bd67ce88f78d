"""`fedmoap data`: who holds what, without training."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from jaxtyping import Int
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.assignment import Assignment
from common.data import Task, load_task
from common.partition import KINDS, partition
from common.plain import plain

CLASSES_SHOWN = 6


def data(
    name: Annotated[str, typer.Argument(help="A known data set, hf:NAME, a folder or a parquet file.")] = "demo",
    clients: Annotated[int, typer.Option("--clients", help="Number of clients.")] = 8,
    kind: Annotated[str, typer.Option("--partition", help=f"How images are dealt: {', '.join(KINDS)}.")] = "iid",
    alpha: Annotated[float, typer.Option("--alpha", help="Dirichlet concentration, or the power of sizes.")] = 0.5,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the split and the partition.")] = 0,
    shots: Annotated[int, typer.Option("--shots", help="Training images per class; 0: all.")] = 0,
    root: Annotated[str, typer.Option("--root", help="Folder that holds local copies of data sets.")] = "",
    test_share: Annotated[
        float, typer.Option("--test-share", help="Share for testing, where the data set has no test part.")
    ] = 0.3,
    broken_share: Annotated[
        float, typer.Option("--broken-share", help="Share of unreadable images that is tolerated.")
    ] = 0.01,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw clients x classes to this PNG.")] = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="Write each client's images here, as real sites hold theirs.")
    ] = None,
    client: Annotated[list[str] | None, typer.Option("--client", help="With --write: this one's only.")] = None,
) -> None:
    """Show who holds what in a simulated federation, without training."""
    task = load_task(name, root=root, seed=seed, test_share=test_share, shots=shots, broken_share=broken_share)
    assignment = partition(task, kind, clients, alpha=alpha, seed=seed)
    show_partition(task, assignment, Console())
    if figure is not None:
        from deploy.figures import draw_heat_map

        counts = class_counts(task, assignment)
        title = f"training images in {task.name}, {kind}"
        draw_heat_map(counts, assignment.names, task.class_names, figure, title=title)
    if write is not None:
        from deploy.shares import write_shares

        for path in write_shares(task, assignment, write, client or ()):
            Console().print(f"written: {path}", highlight=False, soft_wrap=True)


def class_counts(task: Task, assignment: Assignment) -> Int[np.ndarray, "clients classes"]:
    """Training images of every class at every client."""
    labels = task.column("label")
    return np.stack([np.bincount(labels[p.train], minlength=len(task.class_names)) for p in assignment.parts])


def show_partition(task: Task, assignment: Assignment, console: Console) -> None:
    """Prints the data set, every client's images and largest classes, and the record's digests of both."""
    held_out = int(task.test.sum())
    named = f", domains {', '.join(task.domain_names)}" if task.domain_names else ""
    size = f"{len(task.test)} images, {len(task.class_names)} classes{named}"
    split = f"train {len(task.test) - held_out}, test {held_out}; split: {task.split}"
    console.print(Text.assemble((plain(task.name), "bold"), plain(f": {size}")))
    for line in (split, *task.notes):
        console.print(plain(line), markup=False, highlight=False)
    table = Table("client", header_style="bold")
    for heading in ("train", "test", "classes"):
        table.add_column(heading, justify="right")
    table.add_column("most of", overflow="fold")
    for client, part, counts in zip(assignment.names, assignment.parts, class_counts(task, assignment), strict=True):
        order = np.argsort(-counts, kind="stable")[: min(CLASSES_SHOWN, np.count_nonzero(counts))]
        most = ", ".join(f"{task.class_names[label]} {counts[label]}" for label in order)
        held = str(np.count_nonzero(counts))
        table.add_row(client, str(len(part.train)), str(len(part.test)), held, Text(plain(most)))
    console.print(table)
    console.print(f"partition {assignment.digest[:16]}, data {task.fingerprint[:16]}", highlight=False)
