"""A pet's alpha, its time and its memory, against the package rembg with the same weights and as many threads.

The pictures are composites whose alpha is known (`bench.headshot_composites`), none of which the numbers of
`serve_app.headshots` were chosen on; `--tuning` takes those they were chosen on. Every picture on which the network
itself misses the pet (intersection over union below 0.9) is left out and counted: no refinement can mend that.

Ratios are of errors summed over the whole picture, ours over rembg's; `…_worst` is the largest of a picture, the others
are means over pictures. `plain` is rembg's usual output, `matting` its alpha-matting mode. `network_…` is
pre-processing, run and post-processing up to an alpha of the photo's size, interleaved, medians. `seconds_…` of
alpha-matting and of ours are all there is from the photo to alpha and unmixed colours; `cpu_…` is the process's CPU
time of the same, which other jobs on the machine move less. Memory is what a process of its own needs at its peak
beyond the loaded network and the photo.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from PIL import Image

from bench import headshot_errors as errors
from bench.headshot_composites import Composite, Field, Rgb, compose
from bench.report import print_figures
from serve_app.headshots.foreground import estimate_foreground
from serve_app.headshots.matting import Matting, load_matting
from serve_app.headshots.matting_models import MODELS
from serve_app.headshots.refinement import refine_alpha
from serve_app.settings import load_settings
from serve_app.weights import locate

THREADS = 2
REPEATS = 9
PAUSE_S = 0.05  # rembg's waiting threads spin for a while and would be in the way of whoever comes next
FOUND = 0.9  # intersection over union of the network's yes with the pet
HELD_OUT = (
    ("fawn", "plain", 800, 1000, 921),
    ("pewter", "bokeh", 1000, 800, 932),
    ("sable", "wall", 1200, 1500, 923),
    ("red", "grass", 1200, 900, 924),
    ("slate", "gravel", 1000, 1250, 925),
    ("kitten", "room", 1440, 1800, 926),
    ("pewter", "alike", 1200, 1500, 937),
    ("red", "bokeh", 2400, 3000, 928),
    ("fawn", "gravel", 3000, 4000, 949),
)
TUNING = (
    ("ginger", "plain", 800, 1000, 100),
    ("black", "bokeh", 1000, 800, 101),
    ("white", "wall", 1440, 1800, 102),
    ("brown", "grass", 800, 1000, 103),
    ("tabby", "gravel", 1000, 800, 104),
    ("grey", "room", 1440, 1800, 105),
    ("chocolate", "wall", 1200, 1500, 903),
    ("smoke", "gravel", 1000, 1250, 905),
    ("silver", "bokeh", 1000, 800, 922),
    ("cream", "plain", 800, 1000, 951),
    ("ginger", "alike", 1000, 1250, 961),
)
MEASURES: dict[str, Callable[[Field, Field], float]] = {
    "sad": errors.absolute,
    "mse": errors.squared,
    "gradient": errors.gradient,
}
LARGE = {"12mp": (3000, 4000), "20mp": (4000, 5000), "print": (2400, 3000)}
DRAW = """
import sys, numpy, bench.headshot_composites as composites
name, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
numpy.save(name, composites.compose("smoke", "room", width, height, 909).photo)
"""
BOUNDS = {
    "sad_plain": 0.7,
    "gradient_plain": 0.8,
    "sad_matting": 1.0,
    "gradient_matting": 1.0,
    "seconds_matting": 1.0,
    "cpu_matting": 1.0,
    "network_ratio": 1.0,
}


def measure(pictures: tuple[tuple[str, str, int, int, int], ...]) -> dict[str, float]:
    """Ratios as the module says, and seconds and mebibytes."""
    weights = locate("u2netp", load_settings().engines.weights_dir)
    matting = load_matting(weights, MODELS["u2netp"], threads=THREADS)
    rows: list[dict[str, float]] = []
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        theirs = load_rembg(weights, Path(folder))
        warm = np.zeros((64, 64, 3), np.uint8)
        estimate_foreground(warm, refine_alpha(warm, matting.predict(warm)))
        for picture in pictures:
            composite = compose(*picture)
            row = compare(composite, matting, theirs)
            print(_line(composite.name, row), flush=True)
            if row["found"] < FOUND:
                missed += 1
            else:
                rows.append(row)
    result: dict[str, float] = {"pictures": len(rows), "not_found": missed}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name.startswith(("sad", "mse", "gradient")):
            result |= {name: statistics.mean(values), f"{name}_worst": max(values)}
    for name in ("seconds_matting", "cpu_matting", "network_ratio"):
        values = [row[name] for row in rows]
        result |= {name: statistics.median(values), f"{name}_worst": max(values)}
    return result


def compare(composite: Composite, matting: Matting, theirs: Any) -> dict[str, float]:
    """One picture's ratios."""
    from rembg import remove

    photo, truth = composite.photo, composite.alpha
    plain = _field(remove(photo, session=theirs, only_mask=True))
    start, cpu_start = time.perf_counter(), time.process_time()
    their_matting = _field(remove(photo, session=theirs, alpha_matting=True)[..., 3])
    their_seconds, their_cpu = time.perf_counter() - start, time.process_time() - cpu_start
    start, cpu_start = time.perf_counter(), time.process_time()
    alpha = refine_alpha(photo, matting.predict(photo))
    estimate_foreground(photo, alpha)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    row: dict[str, float] = {"found": _overlap(plain, truth)}
    for name, error in MEASURES.items():
        ours = error(alpha, truth)
        row |= {f"{name}_plain": ours / error(plain, truth), f"{name}_matting": ours / error(their_matting, truth)}
    network = time_network(photo, matting, theirs)
    row |= {"seconds": seconds, "seconds_matting": seconds / their_seconds, "cpu_matting": cpu / their_cpu}
    return row | {"network_ratio": network}


def time_network(photo: Rgb, matting: Matting, theirs: Any) -> float:
    """Median seconds of our network pass over rembg's, up to an alpha of the photo's size."""
    size = (photo.shape[1], photo.shape[0])
    picture = Image.fromarray(photo)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: cv2.resize(matting.predict(photo), size, interpolation=cv2.INTER_CUBIC),
        "theirs": lambda: theirs.predict(picture),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            way()
            spent[name].append(time.perf_counter() - start)
    return statistics.median(spent["ours"]) / statistics.median(spent["theirs"])


def load_rembg(weights: Path, folder: Path) -> Any:
    """rembg's session on the same file, which it looks for in a folder that a variable names."""
    from rembg.sessions.u2netp import U2netpSession

    (folder / "u2netp.onnx").symlink_to(weights)
    os.environ["U2NET_HOME"] = str(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return U2netpSession("u2netp", options, providers=["CPUExecutionProvider"])


def measure_large() -> dict[str, float]:
    """Seconds and mebibytes of whole pictures, each in a process of its own."""
    result: dict[str, float] = {}
    for name, (width, height) in LARGE.items():
        command = [sys.executable, "-m", "bench.headshot_matting", "--one", str(width), str(height)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result |= {f"{key}_{name}": value for key, value in json.loads(done.stdout).items()}
    return result


def measure_one(width: int, height: int) -> dict[str, float]:
    """The parts' seconds on one picture, and by how many mebibytes they raise the process's peak."""
    matting = load_matting(locate("u2netp", load_settings().engines.weights_dir), MODELS["u2netp"], threads=THREADS)
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        # In a process of its own, or drawing the picture would be this one's peak.
        subprocess.run([sys.executable, "-c", DRAW, file.name, str(width), str(height)], check=True)
        photo = np.load(file.name)
    small = np.ascontiguousarray(photo[::8, ::8])
    estimate_foreground(small, refine_alpha(small, matting.predict(small)))
    before = _peak_mib()
    spent = [time.perf_counter()]
    coarse = matting.predict(photo)
    spent.append(time.perf_counter())
    alpha = refine_alpha(photo, coarse)
    spent.append(time.perf_counter())
    peak = _peak_mib()
    estimate_foreground(photo, alpha)
    spent.append(time.perf_counter())
    names = ("seconds_network", "seconds_refinement", "seconds_foreground")
    seconds = {name: float(value) for name, value in zip(names, np.diff(spent), strict=True)}
    return seconds | {"mib_refinement": peak - before, "mib_all": _peak_mib() - before}


def _peak_mib() -> float:
    # Not getrusage: its peak is inherited from whoever started this process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _field(picture: Any) -> Field:
    return np.asarray(picture, np.float32) / np.float32(255)


def _overlap(alpha: Field, truth: Field) -> float:
    mine, real = alpha > 0.5, truth > 0.5
    return float((mine & real).sum() / max(1, (mine | real).sum()))


def _line(name: str, row: dict[str, float]) -> str:
    return f"{name:<26}" + "  ".join(f"{key} {value:.2f}" for key, value in row.items())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.headshot_matting")
    parser.add_argument("--tuning", action="store_true", help="the pictures that the numbers were chosen on")
    parser.add_argument("--one", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="one picture's time and memory")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(*options.one)))
        return
    figures = measure(TUNING if options.tuning else HELD_OUT)
    print_figures(figures | ({} if options.tuning else measure_large()), at_most=BOUNDS)


if __name__ == "__main__":
    main()
