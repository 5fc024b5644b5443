"""Half an hour of the service at 70 % of what it can do: memory, descriptors, threads and metric series stay flat.

What it can do is measured first, with as many callers as keep it busy, on this machine and in this run; then work is
offered at 70 % of that rate at regular times, whatever has become of the earlier work. Growth is that of a straight
line through the second half. Prints a table and one JSON line, draws docs/soak.png, exits 1 when a bound does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from bench.process_samples import Holding, Sample, fit_growth, take_sample
from bench.report import report
from bench.soak_plot import draw
from bench.soak_traffic import Traffic
from pawfect.client import Client
from pawfect.service_process import ServiceProcess
from pawfect.sessions import Backend

SHARE = 0.7
"""Of the capacity."""
WARM_UP_S, MEASURE_S = 30.0, 60.0
CALLERS = 8
"""Enough to keep two cores busy, and fewer than the Editors hold."""
SAMPLE_S = 10.0
SETTLE_S = 180.0
MOST_UNDER_WAY = 200
"""Beyond that the machine has become slower than it was measured, and work is held back and said."""
PICTURE = Path("docs/soak.png")
OURS = ("pawfect", "proxy", "Ingress", "Editor", "Draft", "Headshots", "controller", "raylet", "gcs", "agents")

MEMORY_SHARE, MEMORY_MB = 0.10, 30.0
"""Growth of a role's memory in an hour, at most: a tenth of it, and what an allocator's sawtooth looks like, in MiB."""
COUNT_PER_HOUR = 10.0
"""Growth of descriptors and of threads of a role in an hour, at most."""
SERIES_SHARE = 0.05


async def measure_capacity(traffic: Traffic, seconds: float) -> float:
    """Pieces of work a second that come to their end."""
    stop_at = time.monotonic() + seconds

    async def call() -> None:
        while time.monotonic() < stop_at:
            await traffic.do_one()

    started, before = time.monotonic(), traffic.ends.total()
    await asyncio.gather(*(call() for _ in range(CALLERS)))
    return (traffic.ends.total() - before) / (time.monotonic() - started)


async def offer(traffic: Traffic, rate: float, seconds: float) -> tuple[int, int, int]:
    """Offered, held back, and not ended when patience ended."""
    tasks: set[asyncio.Task[None]] = set()
    start, offered, held_back = time.monotonic(), 0, 0
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
        if traffic.under_way >= MOST_UNDER_WAY:
            held_back += 1
            continue
        offered += 1
        task = asyncio.create_task(traffic.do_one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    left = (await asyncio.wait(tasks, timeout=SETTLE_S))[1] if tasks else set()
    for task in left:
        task.cancel()
    return offered, held_back, len(left)


async def watch(service: ServiceProcess, traffic: Traffic, samples: list[Sample]) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        while True:
            page = (await http.get(f"http://127.0.0.1:{service.metrics_port}/metrics")).text
            figures = {"under_way": float(traffic.under_way), "ended": float(traffic.ends.total())}
            samples.append(await asyncio.to_thread(take_sample, service.pid, page, figures))
            await asyncio.sleep(SAMPLE_S)


async def soak(service: ServiceProcess, minutes: float) -> tuple[dict[str, float], list[Sample], Traffic]:
    samples: list[Sample] = []
    backend = Backend(service.data_dir)
    async with Client(service.url) as client:
        traffic = Traffic(client, backend)
        await measure_capacity(traffic, WARM_UP_S)
        capacity = await measure_capacity(traffic, MEASURE_S)
        print(f"capacity {capacity:.2f} pieces of work a second; offered {SHARE * capacity:.2f}", flush=True)
        watching = asyncio.create_task(watch(service, traffic, samples))
        offered, held_back, left = await offer(traffic, SHARE * capacity, minutes * 60)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    backend.close()
    figures = {
        "minutes": minutes,
        "capacity_per_s": capacity,
        "offered": float(offered),
        "held_back": float(held_back),
        "not_ended": float(left),
        "errors": float(traffic.errors.total()),
    }
    return figures, samples, traffic


def judge(samples: Sequence[Sample]) -> tuple[dict[str, float], dict[str, float]]:
    """Growth in an hour over the second half, and its bounds."""
    half = samples[len(samples) // 2 :]
    figures: dict[str, float] = {}
    at_most: dict[str, float] = {}
    for role in OURS:
        held = [sample.roles.get(role, Holding()) for sample in half]
        mean = sum(each.rss_mb for each in held) / len(held)
        figures[f"{role}_mb"] = mean
        figures[f"{role}_mb_per_hour"] = fit_growth(half, [each.rss_mb for each in held])
        at_most[f"{role}_mb_per_hour"] = MEMORY_SHARE * mean + MEMORY_MB
        for name in ("descriptors", "threads"):
            figures[f"{role}_{name}_per_hour"] = fit_growth(half, [float(getattr(each, name)) for each in held])
            at_most[f"{role}_{name}_per_hour"] = COUNT_PER_HOUR
    series = [float(sample.series) for sample in half]
    figures["series"], figures["series_per_hour"] = series[-1], fit_growth(half, series)
    at_most["series_per_hour"] = SERIES_SHARE * series[-1]
    return figures, at_most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pawfect-soak-") as folder:
        limits = {"PAWFECT_CALLERS__REQUESTS_PER_MINUTE": "100000", "PAWFECT_CALLERS__CONCURRENT_JOBS": "1000"}
        with ServiceProcess(Path(folder) / "data", Path(folder) / "service.log", environment=limits) as service:
            asyncio.run(service.wait_ready())
            figures, samples, traffic = asyncio.run(soak(service, options.minutes))
    growth, at_most = judge(samples)
    title = (
        f"{options.minutes:g} minutes at {SHARE:.0%} of {figures['capacity_per_s']:.1f} pieces of work a second: "
        f"{traffic.ends.total()} ended"
    )
    draw(options.picture, samples, OURS, title)
    print("\n".join(f"{kind}: {count}" for kind, count in sorted((traffic.ends + traffic.errors).items())))
    bounds = {**at_most, "not_ended": 0, "held_back": 0, "errors": 0}
    return report({**figures, **growth}, at_least={}, at_most=bounds)


if __name__ == "__main__":
    raise SystemExit(main())
