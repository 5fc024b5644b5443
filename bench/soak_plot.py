"""A soak as one picture: memory, descriptors, threads and series over the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.process_samples import Holding, Sample

SIZE_IN = (11.0, 8.5)
DPI = 100
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000", "#999999", "#f0e442", "#882255")
"""Told apart by colour-blind people as well (Okabe and Ito 2008)."""


def draw(path: Path, samples: Sequence[Sample], roles: Sequence[str], title: str) -> None:
    minutes = [(sample.at - samples[0].at) / 60 for sample in samples]
    figure = Figure(SIZE_IN, layout="constrained")
    figure.suptitle(title, fontsize=11)
    memory, descriptors, threads, series = figure.subplots(4, 1, sharex=True, height_ratios=(4, 2, 2, 2))
    rows: tuple[tuple[object, str, Callable[[Holding], float]], ...] = (
        (memory, "memory, MiB", lambda each: each.rss_mb),
        (descriptors, "descriptors", lambda each: each.descriptors),
        (threads, "threads", lambda each: each.threads),
    )
    for axes, label, read in rows:
        for role, colour in zip(roles, COLOURS, strict=False):
            values = [read(sample.roles.get(role, Holding())) for sample in samples]
            axes.plot(minutes, values, color=colour, linewidth=1.2, label=role)  # type: ignore[attr-defined]
        axes.set_ylabel(label)  # type: ignore[attr-defined]
    series.plot(minutes, [sample.series for sample in samples], color="black", linewidth=1.2)
    series.set_ylabel("metric series")
    for axes in (memory, descriptors, threads, series):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    memory.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    series.set_xlabel("minutes")
    series.set_xlim(0, minutes[-1])
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
