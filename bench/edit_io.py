"""CPU time of everything around the engine, per photo.

`io_ratio` is the process CPU time of prepare + finish over one Pillow decode + one Pillow encode (quality 95) of the
same 12-megapixel photo, for the costlier of two masks; the engine is a stand-in that hands its crops back. The decode
is a bare `load()`; `io_ratio_convert` measures against `convert("RGB")`, which copies the frame once more.
`replaced_ratio` is the way this one replaces: decode, shrink the frame to 1024 pixels, enlarge it again, encode. Runs
are interleaved; medians count.
"""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Callable

from PIL import Image

from bench.photos import clip_mask, detailed_photo, leash_mask
from serve_app.editing.edit import finish, prepare
from serve_app.settings import Settings
from serve_app.settings_sections import DEFAULT_QUALITIES

WIDTH, HEIGHT = 4000, 3000  # photo pixels
REPEATS = 7


def measure(repeats: int = REPEATS) -> dict[str, float]:
    """Ratios, and milliseconds of CPU time (`…_ms`) or wall time per stage (`stage_…_ms`, of the leash)."""
    photo = detailed_photo(WIDTH, HEIGHT)
    settings = Settings(_env_file=None)
    stages: dict[str, list[float]] = {}
    ways: dict[str, Callable[[], dict[str, float]]] = {
        "decode_encode": lambda: _decode_encode(photo),
        "convert_encode": lambda: _convert_encode(photo),
        "replaced": lambda: _replaced(photo),
        "leash": lambda: _edit(photo, leash, settings, keep_frame=True),
        "clip": lambda: _edit(photo, clip, settings, keep_frame=True),
        "leash_waiting": lambda: _edit(photo, leash, settings, keep_frame=False),
        "clip_waiting": lambda: _edit(photo, clip, settings, keep_frame=False),
    }
    leash, clip = leash_mask(WIDTH, HEIGHT), clip_mask(WIDTH, HEIGHT)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            seconds = way()
            spent[name].append(time.process_time() - start)
            if name == "leash":
                for stage, value in seconds.items():
                    stages.setdefault(stage, []).append(value)
    medians = {name: statistics.median(values) for name, values in spent.items()}
    base = medians["decode_encode"]
    result = {
        "io_ratio": max(medians["leash"], medians["clip"]) / base,
        "io_ratio_convert": max(medians["leash"], medians["clip"]) / medians["convert_encode"],
        "io_ratio_waiting": max(medians["leash_waiting"], medians["clip_waiting"]) / base,
        "leash_ratio": medians["leash"] / base,
        "clip_ratio": medians["clip"] / base,
        "replaced_ratio": medians["replaced"] / base,
    }
    result |= {f"{name}_ms": value * 1000 for name, value in medians.items()}
    return result | {f"stage_{name}_ms": statistics.median(values) * 1000 for name, values in stages.items()}


def main() -> None:
    result = measure()
    for name, value in result.items():
        print(f"{name:<28}{value:10.2f}")
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


def _edit(photo: bytes, mask: bytes, settings: Settings, *, keep_frame: bool) -> dict[str, float]:
    prepared = prepare(photo, mask, DEFAULT_QUALITIES["high"], settings, keep_frame=keep_frame)
    edited = finish(prepared, [crop.image for crop in prepared.crops], settings)
    return {f"prepare_{name}": value for name, value in prepared.seconds.items()} | {
        f"finish_{name}": value for name, value in edited.seconds.items()
    }


def _decode_encode(photo: bytes) -> dict[str, float]:
    _encode(_decode(photo))
    return {}


def _convert_encode(photo: bytes) -> dict[str, float]:
    _encode(Image.open(io.BytesIO(photo)).convert("RGB"))
    return {}


def _replaced(photo: bytes) -> dict[str, float]:
    image = _decode(photo)
    small = image.resize((1024, round(1024 * image.height / image.width)), Image.Resampling.LANCZOS)
    _encode(small.resize(image.size, Image.Resampling.LANCZOS))
    return {}


def _decode(photo: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(photo))
    image.load()  # a JPEG's pixels are RGB already; convert("RGB") would only add a copy to the yardstick
    return image


def _encode(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95, subsampling="4:2:0")
    return out.getvalue()


if __name__ == "__main__":
    main()
