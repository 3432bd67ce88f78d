"""Two ways to the same numbers, timed in turn in one process."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

Way = Callable[[], Mapping[str, Tensor]]
"""Does the whole work once; what it returns is compared by name."""


@dataclass(frozen=True)
class Case:
    """The obvious way and ours."""

    obvious: Way
    ours: Way
    share: float = 1.0
    """How much of the work the obvious way does, where all of it would need more memory than there is."""
    ours_in_part: Way | None = None
    """Ours on that part, to compare with."""


@dataclass(frozen=True)
class Result:
    """What was measured; the ratios are those of each turn."""

    name: str
    settings: dict[str, str | int | float]
    obvious_seconds: float
    ours_seconds: float
    ratios: tuple[float, ...]
    ratio: float
    differences: dict[str, float]
    """Largest absolute difference over the largest absolute value, by name."""
    obvious_peak: int | None
    ours_peak: int | None
    """Growth of the peak memory in bytes, each way in a process of its own; None where it cannot be measured."""
    share: float
    clock: str
    machine: str


def differences(case: Case) -> dict[str, float]:
    """Largest difference of each result, relative to its largest value; warms both ways up."""
    ours, theirs = (case.ours_in_part or case.ours)(), case.obvious()
    return {
        name: float((ours[name].double() - value.double()).abs().max() / value.double().abs().max())
        for name, value in theirs.items()
    }


def in_turn(case: Case, repeat: int, device: torch.device) -> tuple[list[float], list[float]]:
    """Seconds of the obvious way, scaled up to all of the work, and of ours, turn by turn.

    Ours runs three times a turn, and its median counts: it is short enough to be disturbed by anything.
    """
    case.ours()
    obvious, ours = [], []
    for _ in range(repeat):
        obvious.append(seconds(case.obvious, device) / case.share)
        ours.append(median(seconds(case.ours, device) for _ in range(3)))
    return obvious, ours


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """CUDA events on a GPU; CPU time with one thread, which other processes disturb least; else the clock."""
    if device.type == "cuda":
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(stop)) / 1000
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    work()
    return clock() - started


def clock_name(device: torch.device) -> str:
    """What `seconds` counts."""
    if device.type == "cuda":
        return "CUDA events"
    return "CPU seconds" if torch.get_num_threads() == 1 else "seconds"


def peak_growth(way: Way, device: torch.device) -> int | None:
    """Bytes by which the peak memory grows in doing the work once; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        way()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    except OSError:
        return None
    before = _kibibytes("/proc/self/status", "VmRSS")
    way()
    return 1024 * (_kibibytes("/proc/self/status", "VmHWM") - before)


def free_memory(device: torch.device) -> int:
    """Bytes that can be had without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return 1024 * _kibibytes("/proc/meminfo", "MemAvailable")
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def machine(device: torch.device) -> str:
    """The processor that did the work, and what drove it."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} of {os.cpu_count()} threads, torch {torch.__version__}"


def _kibibytes(path: str, name: str) -> int:
    lines = Path(path).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
