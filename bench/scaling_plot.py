"""A run of scaling as one picture: replicas, queue and latency over the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.offered_load import Asked
from bench.sampling import Sample

SIZE_IN = (11.0, 7.5)
DPI = 100
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#e69f00", "#009e73", "#777777"
"""Told apart by colour-blind people as well (Okabe and Ito 2008)."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened, with a word beside a vertical line."""

    at: float
    text: str


def draw(path: Path, samples: Sequence[Sample], asked: Sequence[Asked], marks: Sequence[Mark], fitting: int) -> None:
    start = samples[0].at
    figure = Figure(SIZE_IN, layout="constrained")
    replicas, queue, latency = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    times = [sample.at - start for sample in samples]
    _draw_replicas(replicas, times, samples, fitting)
    _draw_queue(queue, times, samples)
    _draw_latency(latency, start, asked)
    for axes in (replicas, queue, latency):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        for mark in marks:
            axes.axvline(mark.at - start, color=GREY, linewidth=0.8, linestyle=":")
    for number, mark in enumerate(marks):
        height = 1.0 + 0.07 * (number % 3)  # three rows, for those that are close to each other
        replicas.text(
            mark.at - start, height, f" {mark.text}", transform=replicas.get_xaxis_transform(), fontsize=9, va="bottom"
        )
    latency.set_xlabel("seconds")
    latency.set_xlim(0, times[-1])
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _draw_replicas(axes: Any, times: Sequence[float], samples: Sequence[Sample], fitting: int) -> None:
    running = [sample.running for sample in samples]
    axes.fill_between(times, running, step="post", color=BLUE, alpha=0.35, label="running")
    starting = [sample.running + sample.starting for sample in samples]
    axes.fill_between(times, running, starting, step="post", color=ORANGE, alpha=0.45, label="starting, or no GPU free")
    axes.step(times, [sample.wanted for sample in samples], where="post", color="black", linewidth=1.2, label="wanted")
    axes.axhline(fitting, color=GREEN, linewidth=1.2, linestyle="--", label=f"{fitting} fit")
    axes.set_ylabel("replicas")
    _explain(axes)


def _draw_queue(axes: Any, times: Sequence[float], samples: Sequence[Sample]) -> None:
    axes.step(times, [s.queue.queued for s in samples], where="post", color=BLUE, label="jobs waiting")
    axes.step(times, [s.queue.running for s in samples], where="post", color=GREEN, label="jobs running")
    axes.plot(times, [s.queue.oldest_s for s in samples], color=ORANGE, linewidth=1, label="oldest waiting, seconds")
    axes.set_ylabel("queue")
    _explain(axes)


def _draw_latency(axes: Any, start: float, asked: Sequence[Asked]) -> None:
    ended = [(each.ended_at - start, each.latency_s) for each in asked if each.ended_at and each.latency_s]
    axes.scatter([at for at, _ in ended], [seconds for _, seconds in ended], s=10, color=BLUE, label="a message's end")
    axes.set_ylabel("message to end, seconds")
    _explain(axes)


def _explain(axes: Any) -> None:
    """Beside the axes, where it hides nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9, frameon=False)
