"""Arithmetic an edit takes at equal detail, against the way this one replaces; counted, so no GPU and no weights.

The replaced way shrinks the whole 12-megapixel photo to 1024 × 768 and gives it to diffusers' FluxFillPipeline, which
encodes both the image and the masked image. Ours gives the model only what lies around the mask, at the same 0.256
model pixels per photo pixel, and encodes only the masked image: from pure noise the image's own latents count for
nothing. Both run 28 steps at 128 text tokens (the pipeline would pad to 512 if not told otherwise); the text encoders
are left out of both.

Twenty masks: ten leashes whose bounding boxes take from a tenth to six tenths of the photo, in even steps, and ten
compact clips. `equal_detail_ratio` is the median over all of the replaced way's TFLOP over ours. The two kinds lie far
apart, so that median falls into the gap between them and says little about either: it is the mean of the dearest clip
and the cheapest leash. `equal_detail_leash` and `equal_detail_clip` are the medians of each kind, and
`equal_detail_total` compares the sums over all twenty, which is what a GPU feels.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bench.flops import transformer_tflop, vae_decode_tflop, vae_encode_tflop
from bench.photos import clip_mask, leash_mask
from bench.report import print_figures
from serve_app.editing import mask as masks
from serve_app.editing.region import Region, plan
from serve_app.photos.codec import decode_mask
from serve_app.settings import Settings
from serve_app.settings_sections import DEFAULT_QUALITIES, Quality

WIDTH, HEIGHT = 4000, 3000  # photo pixels
REPLACED_WIDTH, REPLACED_HEIGHT = 1024, 768  # model pixels
REPLACED_STEPS = 28
TEXT_TOKENS = 128
EQUAL_DETAIL = REPLACED_WIDTH / WIDTH  # model pixels per photo pixel
EQUAL = Quality(engine="flux", steps=REPLACED_STEPS, guidance=30, detail=EQUAL_DETAIL, max_megapixels=1.0)
ROWS = {name: row for name, row in DEFAULT_QUALITIES.items() if row.engine == "flux"}
LEASH_SHARES = np.linspace(0.1, 0.6, 10).tolist()  # of the photo's area, taken by the leash's bounding box
CLIPS = 10


@dataclass(frozen=True, slots=True)
class Work:
    """What one photo takes. `density` is model pixels per photo pixel, of the coarsest side of any region."""

    tflop: float
    density: float


def measure() -> dict[str, float]:
    """Ratios are TFLOP replaced over ours; above 1 ours is cheaper.

    `equal_detail_…` are ratios per photo, but for `…_density_gain`, the lowest density's share of the replaced one. Per
    shipped quality, over all masks and for leashes and clips apart: `tflop_…`, the median per photo; `ratio_…`, of that
    median; `density_gain_…`, the median of how many times the replaced way's model pixels per photo pixel it has, which
    is below 1 where a long leash meets a small `max_megapixels`.
    """
    kinds = {"leash": make_leashes(), "clip": make_clips()}
    works = count_works([*kinds["leash"], *kinds["clip"]], {"equal": EQUAL, **ROWS})
    replaced = replaced_tflop()
    equal = works.pop("equal")
    ratios = [replaced / work.tflop for work in equal]
    leashes = len(kinds["leash"])
    spread = _spread("equal_detail", ratios)
    result = {"equal_detail_ratio": spread.pop("equal_detail"), **spread}
    result |= _spread("equal_detail_leash", ratios[:leashes]) | _spread("equal_detail_clip", ratios[leashes:])
    result["equal_detail_total"] = replaced * len(equal) / sum(work.tflop for work in equal)
    result["equal_detail_density_gain"] = min(work.density for work in equal) / EQUAL_DETAIL
    result["replaced_tflop"] = replaced
    for name, row in works.items():
        result |= _row(name, row, replaced)
        result |= _row(f"{name}_leash", row[:leashes], replaced) | _row(f"{name}_clip", row[leashes:], replaced)
    return result


def replaced_tflop() -> float:
    """TFLOP of one photo on the replaced way, whatever its mask."""
    size = (REPLACED_WIDTH, REPLACED_HEIGHT)
    steps = REPLACED_STEPS * transformer_tflop(*size, TEXT_TOKENS)
    return steps + 2 * vae_encode_tflop(*size) + vae_decode_tflop(*size)


def count_works(files: Iterable[bytes], qualities: Mapping[str, Quality]) -> dict[str, list[Work]]:
    """Per quality one `Work` for each mask file, in their order, planned as the editor does with default settings."""
    works: dict[str, list[Work]] = {name: [] for name in qualities}
    for file in files:
        for name, quality in qualities.items():
            works[name].append(_work(plan_regions(file, quality), quality.steps))
    return works


def plan_regions(file: bytes, quality: Quality) -> list[Region]:
    """The regions of a mask file at a quality, as the editor plans them with default settings."""
    settings = Settings(_env_file=None)
    mask = masks.binarize(decode_mask(file, settings.photos))
    radius = masks.dilation_radius(mask.shape[1], mask.shape[0], settings.editing.mask_dilation)
    return plan(mask, quality, settings.editing.context_px, radius)


def _row(name: str, works: list[Work], replaced: float) -> dict[str, float]:
    tflop = statistics.median(work.tflop for work in works)
    gain = statistics.median(work.density for work in works) / EQUAL_DETAIL
    return {f"tflop_{name}": tflop, f"ratio_{name}": replaced / tflop, f"density_gain_{name}": gain}


def _work(regions: list[Region], steps: int) -> Work:
    tflop = sum(
        steps * transformer_tflop(*region.size, TEXT_TOKENS)
        + vae_encode_tflop(*region.size)
        + vae_decode_tflop(*region.size)
        for region in regions
    )
    return Work(tflop, min(_density(region) for region in regions))


def _density(region: Region) -> float:
    left, top, right, bottom = region.box
    return min(region.size[0] / (right - left), region.size[1] / (bottom - top))


def make_leashes() -> list[bytes]:
    return [leash_mask(WIDTH, HEIGHT, seed, share) for seed, share in enumerate(LEASH_SHARES)]


def make_clips() -> list[bytes]:
    return [clip_mask(WIDTH, HEIGHT, seed) for seed in range(CLIPS)]


def _spread(name: str, values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {name: middle, f"{name}_min": min(values), f"{name}_q1": low, f"{name}_q3": high, f"{name}_max": max(values)}


def main() -> None:
    result = measure()
    print_figures(result)


if __name__ == "__main__":
    main()
