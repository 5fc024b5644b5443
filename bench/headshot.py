"""`make bench-headshot`, second part, and `make soak-headshot`: whole headshots, from the photo's file to both PNGs.

Seconds and peak memory at 12 and 20 megapixels, each in a process of its own, at 12 beside what the rembg package takes
on the same file with the same weights and threads for its cut-out with alpha matting, which is less than a headshot: no
look, no framing, one PNG. `mib_*` is the process's highest resident set, `mib_idle` that before the first photo.

The soak makes headshots in a row of photos of changing size, pet and kind; `rss_kib_per_headshot` is the slope of the
resident set over the second half.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from bench.report import print_figures
from pawfect.demo import SAMPLE
from serve_app.engines.protocol import Done, Event, HeadshotRequest, HeadshotResult
from serve_app.headshots.engine import HeadshotEngine
from serve_app.headshots.matting import load_matting
from serve_app.headshots.matting_models import MODELS
from serve_app.metrics import PlainSink
from serve_app.settings import load_settings
from serve_app.weights import locate

THREADS = 2
REPEATS = {"ours": 3, "rembg": 1}
"""It takes minutes."""
SIZES = {"12mp": (4000, 3000), "20mp": (5472, 3648)}
COMPARED = "12mp"
"""Where rembg is asked as well: three minutes and 8 GB, twice that for more pixels."""
SOAK = 500
SOAK_SIDES = (600, 2400)
"""Long edges of the soak's photos, in pixels, from and to."""
WAIT_S = 300.0
WAYS = ("ours", "rembg")


def make_photo(width: int, height: int) -> bytes:
    """The sample pet in the middle of a larger picture, JPEG: as many pixels as a phone gives, and a pet in them."""
    pet = Image.open(SAMPLE / "pet.jpg").convert("RGB")
    side = height
    picture = Image.new("RGB", (width, height))
    picture.paste(pet.resize((side, side), Image.Resampling.LANCZOS), ((width - side) // 2, 0))
    edge = pet.resize((side, side)).crop((0, 0, 1, side)).resize(((width - side) // 2, side))
    picture.paste(edge, (0, 0))
    picture.paste(edge, (width - edge.width, 0))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=92)
    return out.getvalue()


def open_engine() -> HeadshotEngine:
    settings = load_settings()
    path = locate("u2netp", settings.engines.weights_dir)
    matting = load_matting(path, MODELS["u2netp"], threads=THREADS)
    return HeadshotEngine(matting, settings.headshots, settings.photos, PlainSink())


def make(engine: HeadshotEngine, photo: bytes, name: str = "one") -> HeadshotResult:
    ended, events = threading.Event(), list[Event]()

    def emit(event: Event) -> None:
        events.append(event)
        if isinstance(event, Done) or hasattr(event, "retryable"):
            ended.set()

    request = HeadshotRequest(request_id=name, prompt="", steps=1, guidance=0, seed=0, photo=photo)
    engine.submit(request, emit)
    if not ended.wait(WAIT_S) or not isinstance(events[-1], Done):
        raise RuntimeError(f"no headshot: {events[-1:]}")
    result = events[-1].result
    assert isinstance(result, HeadshotResult)
    return result


def measure_one(way: str, photo: bytes) -> dict[str, float]:
    """In this process: median seconds of whole photos after a small one, and MiB before and at the most."""
    work = open_ours() if way == "ours" else open_rembg()
    work(make_photo(400, 300))
    idle = psutil.Process().memory_info().rss / 2**20
    spent = []
    for _ in range(REPEATS[way]):
        start = time.perf_counter()
        work(photo)
        spent.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": statistics.median(spent), "mib": peak, "mib_idle": idle}


def open_ours() -> Any:
    engine = open_engine()
    return lambda photo: make(engine, photo)


def open_rembg() -> Any:
    from rembg import remove

    from bench.headshot_matting import load_rembg

    path = locate("u2netp", load_settings().engines.weights_dir)
    session = load_rembg(path, Path(tempfile.mkdtemp(prefix="rembg-")))
    return lambda photo: remove(photo, session=session, alpha_matting=True)


def measure() -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, size in SIZES.items():
        photo = make_photo(*size)
        found: dict[str, dict[str, float]] = {}
        for way in WAYS if name == COMPARED else WAYS[:1]:
            command = [sys.executable, "-m", "bench.headshot", "--one", way]
            done = subprocess.run(command, input=photo, capture_output=True, check=True)
            found[way] = json.loads(done.stdout.splitlines()[-1])
            figures |= {f"{key}_{way}_{name}": value for key, value in found[way].items()}
        if name == COMPARED:
            figures |= {f"{key}_ratio_{name}": found["ours"][key] / found["rembg"][key] for key in ("seconds", "mib")}
    return figures


def soak(count: int) -> dict[str, float]:
    """Headshots in a row on one engine; which photo comes next is drawn, the same in every run."""
    draw = np.random.default_rng(7)
    pet = Image.open(SAMPLE / "pet.jpg").convert("RGB")
    engine, process = open_engine(), psutil.Process()
    memory: list[tuple[int, float]] = []
    start = time.monotonic()
    for number in range(count):
        side = int(draw.integers(*SOAK_SIDES))
        photo = pet.resize((side, int(side * draw.uniform(0.75, 1.3)))).rotate(float(draw.uniform(-10, 10)))
        out = io.BytesIO()
        photo.save(out, ("JPEG", "PNG", "WEBP")[number % 3])
        make(engine, out.getvalue(), str(number))
        if number >= count // 2:
            memory.append((number, process.memory_info().rss / 1024))
        if number % 50 == 49:
            print(f"{number + 1:5} headshots, {process.memory_info().rss / 2**20:.0f} MiB", flush=True)
    engine.close()
    numbers, sizes = np.array(memory).T
    slope = float(np.polyfit(numbers, sizes, 1)[0])
    return {
        "headshots": count,
        "rss_kib_per_headshot": slope,
        "rss_mib_last": memory[-1][1] / 1024,
        "rss_mib_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds_each": (time.monotonic() - start) / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.headshot")
    parser.add_argument("--one", choices=WAYS, help="one photo, from standard input, its time and memory")
    parser.add_argument("--soak", type=int, nargs="?", const=SOAK, help=f"so many in a row (default: {SOAK})")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(options.one, sys.stdin.buffer.read())))
    elif options.soak:
        print_figures(soak(options.soak))
    else:
        print_figures(measure())


if __name__ == "__main__":
    main()
