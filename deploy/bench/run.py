"""One benchmark from its settings to its table."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from deploy.bench.cases import CASES
from deploy.bench.measure import Case, Result, clock_name, differences, in_turn, machine, peak_growth
from deploy.bench.setting import Setting
from deploy.bench.startup import startup


def run(name: str, setting: Setting, *, threads: int, repeat: int, as_json: bool, only: str) -> None:
    """Prints what was measured; with `only` one way's peak memory, which is asked for in a process of its own."""
    torch.set_num_threads(threads)
    if only:
        getattr(_case(name, setting.of_classes(2)), only)()  # what libraries set up once is not counted
        growth = peak_growth(getattr(_case(name, setting), only), torch.device(setting.device))
        sys.stdout.write(f"{growth}\n")
        return
    result = startup(setting, repeat) if name == "startup" else measure(name, setting, repeat, threads)
    if as_json:
        sys.stdout.write(json.dumps(asdict(result), indent=1) + "\n")
    else:
        show(result)


def measure(name: str, setting: Setting, repeat: int, threads: int) -> Result:
    """Both ways of one case: differences, times in turn, peak memory."""
    device = torch.device(setting.device)
    case = _case(name, setting)
    found = differences(case)
    obvious, ours = in_turn(case, repeat, device)
    ratios = tuple(slow / fast for slow, fast in zip(obvious, ours, strict=True))
    peaks = {way: _peak(name, setting, threads, way) for way in ("obvious", "ours")}
    return Result(
        name=name,
        settings=asdict(setting),
        obvious_seconds=median(obvious),
        ours_seconds=median(ours),
        ratios=ratios,
        ratio=median(ratios),
        differences=found,
        obvious_peak=None if peaks["obvious"] is None else round(peaks["obvious"] / case.share),
        ours_peak=peaks["ours"],
        share=case.share,
        clock=clock_name(device),
        machine=machine(device),
    )


def show(result: Result) -> None:
    """A table of one result."""
    table = Table("", result.clock, "peak memory growth")
    table.add_row("obvious", f"{result.obvious_seconds:.4g}", _mebibytes(result.obvious_peak))
    table.add_row("ours", f"{result.ours_seconds:.4g}", _mebibytes(result.ours_peak))
    least, most = min(result.ratios), max(result.ratios)
    lines = [f"{result.ratio:.1f}x ({least:.1f} to {most:.1f} in {len(result.ratios)} turns)"]
    if result.share < 1:
        lines.append(f"for want of memory the obvious way did {result.share:.0%} of the classes; scaled up from that")
    lines += [f"largest relative difference, {name}: {value:.1e}" for name, value in result.differences.items()]
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{result.name}: " + ", ".join(f"{key} {value}" for key, value in result.settings.items() if value))
    console.print(table)
    console.print("\n".join([*lines, result.machine]))


def _case(name: str, setting: Setting) -> Case:
    return CASES["experts" if name == "text" and setting.experts else name](setting)


def _peak(name: str, setting: Setting, threads: int, way: str) -> int | None:
    options = [f"--{key.replace('_', '-')}={value}" for key, value in asdict(setting).items()]
    command = [sys.executable, "-m", "deploy.bench", name, *options, f"--threads={threads}", f"--only={way}"]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc then gives back what is freed
    done = subprocess.run(  # noqa: S603 - this program
        command, capture_output=True, text=True, check=True, env=environment
    )
    found = done.stdout.strip()
    return None if found == "None" else int(found)


def _mebibytes(size: int | None) -> str:
    return "not measured" if size is None else f"{size / 2**20:,.0f} MiB"
