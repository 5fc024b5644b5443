"""What HTTP and Ray Serve add to an edit, in the modes Serve has; the service runs as `make serve` starts it.

Per mode: `edit_p50_over_direct`: the time from sending a job with a 1-megapixel photo to holding its result, over that
of the same edit on the draft engine in this process. `added_p50_ms`, `added_p95_ms`: of that time, what the job did not
spend on decoding, planning, the engine, compositing and encoding, as it says itself: HTTP, Serve, the queue, the store,
events and the way back; the engine's own scatter is not in it. `empty_per_s`: requests a second of the emptiest route,
sixteen at a time. `accept_…mb_ms`: milliseconds until a job with a body of so many megabytes is accepted and its images
are stored. `missed_ends`: of 200 watchers on one job, those that did not hear its end. HAProxy mode needs the binary
haproxy and is left out where it is not there.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import numpy as np

from bench.photos import clip_mask, detailed_photo
from bench.report import print_figures
from pawfect.client import Client
from pawfect.service_process import ServiceProcess
from serve_app.editing import edit
from serve_app.engines.draft import DraftEngine, load_migan
from serve_app.engines.protocol import Done, FillRequest
from serve_app.engines.streaming import stream
from serve_app.settings import Settings
from serve_app.settings_sections import DEFAULT_QUALITIES
from serve_app.weights import locate

MODES: dict[str, dict[str, str]] = {
    "default": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"},
    # Without direct ingress, which opens a port per replica on every interface and makes a stop wait half a minute.
    "throughput": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"},
    "haproxy": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"},
}
WIDTH, HEIGHT = 1280, 820  # 1 megapixel
EDITS = 15
EMPTY_REQUESTS, EMPTY_AT_ONCE = 800, 16
BODIES_MB = (2, 8, 20)
BODIES = 8
WATCHERS = 200
WORK = ("decode", "plan", "engine", "composite", "encode")
ENVIRONMENT = {"PAWFECT_JOBS__PROGRESS_INTERVAL_S": "0.2", "PAWFECT_LOG_LEVEL": "WARNING"}


async def measure(modes: dict[str, dict[str, str]]) -> dict[str, float]:
    photo, mask = detailed_photo(WIDTH, HEIGHT), clip_mask(WIDTH, HEIGHT)
    direct = await _measure_direct(photo, mask)
    result: dict[str, float] = {}
    for mode, environment in modes.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            with ServiceProcess(root / "data", root / "log", environment={**ENVIRONMENT, **environment}) as service:
                await service.wait_ready()
                async with Client(service.url) as client:
                    figures = await _measure_service(service.url, client, photo, mask)
        direct += await _measure_direct(photo, mask)
        result |= {f"{mode}_{name}": value for name, value in figures.items()}
    base = statistics.median(direct)
    for mode in modes:
        result[f"{mode}_edit_p50_over_direct"] = result.pop(f"{mode}_edit_p50_s") / base
    return {"direct_p50_ms": base * 1000, **result}


async def _measure_direct(photo: bytes, mask: bytes) -> list[float]:
    """The same edit without a store, without HTTP and without Ray."""
    settings = Settings(_env_file=None)
    engine = DraftEngine(load_migan(locate("migan", settings.engines.weights_dir.expanduser()), 0))
    seconds = []
    for number in range(EDITS + 1):
        started = time.monotonic()
        prepared = edit.prepare(photo, mask, DEFAULT_QUALITIES["draft"], settings, keep_frame=True)
        request = FillRequest(
            request_id=str(number),
            crops=prepared.crops,
            prompt="",
            steps=1,
            guidance=0.0,
            seed=0,
            submitted_at=time.time(),
        )
        async for event in stream(engine, request):
            if isinstance(event, Done):
                edit.finish(prepared, event.result.images, settings)
        seconds.append(time.monotonic() - started)
    engine.close()
    return seconds[1:]


async def _measure_service(url: str, client: Client, photo: bytes, mask: bytes) -> dict[str, float]:
    edits = [await _edit(client, photo, mask) for _ in range(EDITS + 1)][1:]
    added = [whole - work for whole, work in edits]
    result = {
        "edit_p50_s": statistics.median(whole for whole, _ in edits),
        "added_p50_ms": statistics.median(added) * 1000,
        "added_p95_ms": float(np.percentile(added, 95)) * 1000,
        "empty_per_s": await _count_empty(url),
        "missed_ends": float(await _watch(client, photo, mask)),
    }
    for megabytes in BODIES_MB:
        padded = photo + bytes(max(0, megabytes * 10**6 - len(photo)))  # what follows a JPEG's end is not looked at
        accepted = [await _time(lambda data=padded: _submit_and_cancel(client, data, mask)) for _ in range(BODIES)]  # type: ignore[misc]
        result[f"accept_{megabytes}mb_ms"] = statistics.median(accepted) * 1000
    return result


async def _edit(client: Client, photo: bytes, mask: bytes) -> tuple[float, float]:
    """Seconds of the whole, and those that the job worked."""
    started = time.monotonic()
    job_id = await _submit(client, photo, mask)
    async for event in client.follow(job_id):
        last = event.name
    assert last == "done", last
    (await client.fetch_result(job_id)).raise_for_status()
    whole = time.monotonic() - started
    stages = (await client.get_job(job_id)).json()["stage_seconds"]
    return whole, sum(stages[stage] for stage in WORK)


async def _submit(client: Client, photo: bytes, mask: bytes) -> str:
    answer = await client.submit_job("ImageInpaint", init_image=photo, mask_image=mask, as_form=True)
    answer.raise_for_status()
    return str(answer.json()["job_id"])


async def _submit_and_cancel(client: Client, photo: bytes, mask: bytes) -> None:
    await client.cancel_job(await _submit(client, photo, mask))


async def _count_empty(url: str) -> float:
    limits = httpx.Limits(max_connections=EMPTY_AT_ONCE)
    async with httpx.AsyncClient(base_url=url, limits=limits, trust_env=False, timeout=30) as http:
        left = iter(range(EMPTY_REQUESTS))

        async def ask() -> None:
            for _ in left:
                (await http.get("/healthz")).raise_for_status()

        started = time.monotonic()
        await asyncio.gather(*(ask() for _ in range(EMPTY_AT_ONCE)))
        return EMPTY_REQUESTS / (time.monotonic() - started)


async def _watch(client: Client, photo: bytes, mask: bytes) -> int:
    """How many of the watchers did not hear the end."""
    job_id = await _submit(client, photo, mask)

    async def hear() -> bool:
        names = [event.name async for event in client.follow(job_id)]
        return bool(names) and names[-1] == "done"

    heard = await asyncio.gather(*(hear() for _ in range(WATCHERS)))
    return WATCHERS - sum(heard)


async def _time(work: Callable[[], Awaitable[None]]) -> float:
    started = time.monotonic()
    await work()
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.api")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    names = [name for name in parser.parse_args().modes if name != "haproxy" or shutil.which("haproxy")]
    result = asyncio.run(measure({name: MODES[name] for name in names}))
    print_figures(result)


if __name__ == "__main__":
    main()
