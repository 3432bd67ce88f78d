"""Figures, from records alone: the only module that imports matplotlib."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from common.atomic import replacing
from common.record import Record
from deploy.report import OWN, View, counts, percent, variants

mpl.use("Agg")
DPI = 150


def draw_accuracy(records: Sequence[Record], path: Path, view: View = OWN) -> Path | None:
    """Mean accuracy over clients by round, a line a method, a band of one standard deviation over seeds.

    None where no run answers the view in any round.
    """
    records = [record for record in records if _curve(record, view)]
    if not records:
        return None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for method, runs in variants(records).items():
        curves = [_curve(record, view) for record in runs]
        rounds = sorted(set.intersection(*(set(curve) for curve in curves)))
        means = np.array([[curve[number] for number in rounds] for curve in curves])
        centre, spread = means.mean(0), means.std(0, ddof=1) if len(curves) > 1 else 0 * means.mean(0)
        if len(rounds) == 1:
            axes.axhline(centre[0], linestyle="--", color="grey", label=method)
            continue
        (line,) = axes.plot(rounds, centre, marker="o", markersize=3, label=method)
        axes.fill_between(rounds, centre - spread, centre + spread, color=line.get_color(), alpha=0.15)
    whose = "own test part, mean over clients" if view.role == "trains" else f"the {view.role} client's images"
    axes.set(xlabel="round", ylabel=f"accuracy on {whose} (%)")
    axes.legend(fontsize="small")
    return _save(figure, path)


def _curve(record: Record, view: View) -> dict[int, float]:
    return {
        round_.number: statistics.fmean(percent(entry) for entry in found)
        for round_ in record.rounds
        if (found := counts(record, round_, view))
    }


def draw_experts(records: Sequence[Record], path: Path) -> Path | None:
    """Who drew on whose prompts: share of a client's rounds in which it received another's; None if nobody did.

    Of runs of several variants, the first that has any.
    """
    drawing = [r for r in records if any(entry.drew_on for round_ in r.rounds for entry in round_.trained)]
    if not drawing:
        return None
    drawing = next(iter(variants(drawing).values()))
    names = [client.name for client in drawing[0].clients]
    index = {name: number for number, name in enumerate(names)}
    drawn, trained = np.zeros((len(names), len(names))), np.zeros((len(names), 1))
    for record in drawing:
        for entry in (entry for round_ in record.rounds for entry in round_.trained if entry.drew_on):
            trained[index[entry.client]] += 1
            for other in entry.drew_on:
                drawn[index[entry.client], index[other]] += 1
    return draw_heat_map(
        100 * drawn / trained.clip(1), names, names, path, title="prompts received as experts (% of rounds)"
    )


def draw_heat_map(
    values: np.ndarray, row_names: Sequence[str], column_names: Sequence[str], path: Path, *, title: str
) -> Path:
    """A matrix with names on both sides, its values written in where there is room for them."""
    rows, columns = values.shape
    figure = Figure(figsize=(2.5 + 0.35 * columns, 1.8 + 0.3 * rows), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, aspect="auto", cmap="viridis")
    axes.set_xticks(range(columns), column_names, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(rows), row_names, fontsize=7)
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axes)
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    save: Callable[..., None] = figure.savefig
    with replacing(path) as beside:
        save(beside, dpi=DPI, format="png", metadata={"Software": "fedmoap"})
    return path
