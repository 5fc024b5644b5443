"""Pets whose alpha is known, before backgrounds from easy to hard; all of it drawn from a seed, nothing downloaded.

A silhouette of head, ears and shoulders, thousands of tapered hairs along its edge and long whiskers are drawn at three
times the size and averaged down, so alpha is their coverage. The colours are those of drawn fur, or of the fur in
scikit-image's photo of a cat, "Chelsea" (CC0). The photo is alpha × fur + (1 − alpha) × background, in sRGB as in the
matting literature, plus a sensor's noise, through JPEG at quality 95.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

FINE = 3  # drawn pixels per pixel, along an axis
SHIFT = 4  # OpenCV's fixed-point bits: 1/16 drawn pixel
NOISE = 1.5  # standard deviation of a sensor's noise, of 255
JPEG_QUALITY = 95
ALIKE = np.asarray((0.5, 0.52, 0.56), np.float32)  # of the fur: nearer than this, the network loses the pet
FOREHEAD = np.s_[5:75, 170:290]  # of Chelsea: nothing but fur

Rgb = NDArray[np.uint8]
Field = NDArray[np.float32]
Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Look:
    """A pet. Lengths are parts of the head's radius; `fur` is the base colour, RGB of 255, or "cat" for Chelsea's."""

    fur: tuple[int, int, int] | str
    ear: float
    """How long the ears are."""
    hang: float
    """The ears' direction: 0 upright, 1 hanging."""
    hair: float
    """Length of the longest hairs."""
    whiskers: int
    muzzle: float


@dataclass(frozen=True, slots=True)
class Composite:
    name: str
    photo: Rgb
    alpha: Field
    """[H, W] float32, 0..1, as drawn."""
    colour: Rgb
    """[H, W, 3] uint8: the pet's own colours, wherever alpha is above 0."""


LOOKS = {
    "ginger": Look((196, 128, 72), ear=0.75, hang=0.0, hair=0.16, whiskers=14, muzzle=0.36),
    "black": Look((44, 40, 42), ear=0.85, hang=0.8, hair=0.2, whiskers=6, muzzle=0.5),
    "white": Look((226, 222, 214), ear=0.6, hang=0.05, hair=0.26, whiskers=10, muzzle=0.4),
    "brown": Look((124, 84, 52), ear=0.95, hang=0.95, hair=0.1, whiskers=8, muzzle=0.55),
    "tabby": Look("cat", ear=0.7, hang=0.0, hair=0.14, whiskers=16, muzzle=0.36),
    "grey": Look((128, 130, 136), ear=0.65, hang=0.1, hair=0.22, whiskers=12, muzzle=0.42),
    "cream": Look((214, 190, 150), ear=0.9, hang=0.6, hair=0.24, whiskers=8, muzzle=0.48),
    "chocolate": Look((78, 54, 40), ear=0.8, hang=0.9, hair=0.18, whiskers=10, muzzle=0.52),
    "smoke": Look((72, 76, 86), ear=0.68, hang=0.05, hair=0.28, whiskers=14, muzzle=0.4),
    "silver": Look((168, 172, 180), ear=0.72, hang=0.0, hair=0.12, whiskers=18, muzzle=0.34),
    # The refinement's numbers were chosen without those below.
    "fawn": Look((190, 160, 122), ear=0.7, hang=0.15, hair=0.15, whiskers=9, muzzle=0.46),
    "pewter": Look((160, 166, 176), ear=0.7, hang=0.0, hair=0.13, whiskers=15, muzzle=0.35),
    "red": Look((168, 84, 44), ear=0.85, hang=0.02, hair=0.22, whiskers=12, muzzle=0.38),
    "kitten": Look("cat", ear=0.82, hang=0.0, hair=0.2, whiskers=20, muzzle=0.33),
    "sable": Look((88, 66, 56), ear=0.7, hang=0.4, hair=0.2, whiskers=9, muzzle=0.45),
    "slate": Look((92, 98, 110), ear=0.6, hang=0.0, hair=0.25, whiskers=16, muzzle=0.37),
}
BACKGROUNDS = ("plain", "bokeh", "wall", "grass", "gravel", "room", "alike")
"""From easy to hard; "alike" has the fur's own hue."""


def compose(look: str, background: str, width: int, height: int, seed: int) -> Composite:
    """One photo; the same arguments give the same pixels."""
    rng = np.random.default_rng(seed)
    pet = LOOKS[look]
    alpha, shade = _draw(pet, width, height, rng)
    colour = np.clip(_fur(pet, width, height, rng) * shade[..., None], 0, 255)
    behind = np.clip(_background(background, colour, width, height, rng), 0, 255)
    mixed = alpha[..., None] * colour + (1 - alpha[..., None]) * behind
    mixed += rng.standard_normal(mixed.shape, np.float32) * NOISE
    photo = _through_jpeg(np.clip(mixed + 0.5, 0, 255).astype(np.uint8))
    return Composite(f"{look}/{background}/{width}x{height}", photo, alpha, colour.astype(np.uint8))


def _through_jpeg(photo: Rgb) -> Rgb:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(file))


# -- shape ----------------------------------------------------------------------------------------------------------


def _draw(pet: Look, width: int, height: int, rng: np.random.Generator) -> tuple[Field, Field]:
    """Alpha, and how bright the fur is there (1 = its base colour): a face, and every hair a little of its own."""
    radius = 0.27 * min(width, height * 0.85) * rng.uniform(0.9, 1.1)
    middle = np.array([width * rng.uniform(0.46, 0.54), height * rng.uniform(0.42, 0.48)])
    canvas = np.zeros((height * FINE, width * FINE), np.uint8)
    outline = _silhouette(pet, middle, radius, height, rng)
    for part in outline:
        cv2.fillPoly(canvas, [_fixed(part)], 255, shift=SHIFT)
    tone = np.full((height, width), 1.0, np.float32)
    contours, _ = cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    edge = np.concatenate(contours)[:, 0].astype(np.float64) / FINE
    _hairs(canvas, edge, radius, pet, rng)
    _whiskers(canvas, tone, middle, radius, pet, rng)
    alpha = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    alpha = cv2.GaussianBlur(alpha, (0, 0), 0.6)  # the lens
    _face(tone, middle, radius, pet)
    return np.clip(alpha, 0, 1), tone


def _silhouette(pet: Look, middle: Points, radius: float, height: int, rng: np.random.Generator) -> list[Points]:
    turns = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    wobble = 1 + 0.02 * np.sin(3 * turns + rng.uniform(0, 6)) + 0.015 * np.sin(7 * turns + rng.uniform(0, 6))
    head = middle + radius * wobble[:, None] * np.stack([0.95 * np.cos(turns), np.sin(turns)], 1)
    parts = [head]
    for side in (-1, 1):
        root = middle + radius * np.array([side * 0.62, -0.62])
        angle = np.pi / 2 * (1 - pet.hang) + (-1.1 * pet.hang)
        tip = root + radius * pet.ear * np.array([side * (0.35 + 0.3 * pet.hang), -np.sin(angle)])
        across = radius * 0.36 * np.array([1, side * 0.75])
        bend = (root + tip) / 2
        parts.append(np.array([root - across, bend - across * 0.75, tip, bend + across * 0.75, root + across]))
    low = height - 1 + 4
    wide = radius * rng.uniform(1.15, 1.5)
    parts.append(
        np.array(
            [
                [middle[0] - radius * 0.72, middle[1] + radius * 0.5],
                [middle[0] + radius * 0.72, middle[1] + radius * 0.5],
                [middle[0] + wide * 0.9, middle[1] + radius * 1.5],
                [middle[0] + wide * 1.15, low],
                [middle[0] - wide * 1.15, low],
                [middle[0] - wide * 0.9, middle[1] + radius * 1.5],
            ]
        )
    )
    return parts


def _hairs(canvas: Rgb, edge: Points, radius: float, pet: Look, rng: np.random.Generator) -> None:
    centre = edge.mean(0)
    smooth = cv2.blur(edge.reshape(1, -1, 2), (41, 1), borderType=cv2.BORDER_REPLICATE)[0]
    along = np.roll(smooth, -12, 0) - np.roll(smooth, 12, 0)
    normal = np.stack([along[:, 1], -along[:, 0]], 1) / np.maximum(np.hypot(*along.T)[:, None], 1e-6)
    flip = np.sign((normal * (smooth - centre)).sum(1))[:, None]
    normal *= np.where(flip == 0, 1, flip)
    clump = 0.5 + 0.5 * np.sin(np.arange(len(edge)) / (radius * FINE * 0.06) + 2 * np.sin(np.arange(len(edge)) / 97))
    for index in rng.choice(len(edge), size=int(len(edge) * 0.35), replace=True):
        lean = rng.normal(0, 0.35) + 0.5 * (clump[index] - 0.5)
        turn = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
        length = radius * pet.hair * rng.beta(1.6, 2.6) * (0.4 + 0.6 * clump[index])
        start = edge[index] - normal[index] * radius * 0.03
        sag = np.array([0, rng.uniform(0, 0.35) * length])
        _strand(canvas, start, turn @ normal[index] * length, sag, radius * rng.uniform(0.004, 0.011), 5)


def _whiskers(canvas: Rgb, tone: Field, middle: Points, radius: float, pet: Look, rng: np.random.Generator) -> None:
    for index in range(pet.whiskers):
        side = -1 if index % 2 else 1
        start = middle + radius * np.array([side * rng.uniform(0.3, 0.45), rng.uniform(0.3, 0.5)])
        angle = rng.uniform(-0.35, 0.45)
        reach = radius * rng.uniform(1.0, 1.5) * np.array([side * np.cos(angle), np.sin(angle)])
        sag = np.array([0, radius * rng.uniform(0.0, 0.25)])
        width = radius * rng.uniform(0.006, 0.011)
        _strand(canvas, start, reach, sag, width, 24)
        light = np.zeros(tone.shape, np.uint8)
        points = _curve(start, reach, sag, 24)
        cv2.polylines(light, [np.round(points).astype(np.int32)], False, 255, max(3, round(3 * width)))
        tone[light > 0] = 1.5


def _curve(start: Points, reach: Points, sag: Points, pieces: int) -> Points:
    t = np.linspace(0, 1, pieces + 1)[:, None]
    return start + t * reach + t**2 * sag


def _strand(canvas: Rgb, start: Points, reach: Points, sag: Points, width: float, pieces: int) -> None:
    """A hair as a chain of quadrilaterals, `width` pixels thick at its root and a fifth of that at its tip."""
    points = _curve(start, reach, sag, pieces)
    along = np.gradient(points, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], 1) / np.maximum(np.hypot(*along.T)[:, None], 1e-6)
    half = across * (width / 2 * np.linspace(1, 0.2, len(points)))[:, None]
    outline = np.concatenate([points + half, (points - half)[::-1]])
    cv2.fillPoly(canvas, [_fixed(outline)], 255, shift=SHIFT)


def _fixed(points: Points) -> NDArray[np.int32]:
    """OpenCV's fixed-point coordinates on the fine canvas; a pixel's middle is a whole number there."""
    return np.round(((points + 0.5) * FINE - 0.5) * (1 << SHIFT)).astype(np.int32)


def _face(tone: Field, middle: Points, radius: float, pet: Look) -> None:
    def spot(x: float, y: float, wide: float, high: float, value: float) -> None:
        place = middle + radius * np.array([x, y])
        axes = (max(1, round(wide * radius)), max(1, round(high * radius)))
        cv2.ellipse(tone, (round(place[0]), round(place[1])), axes, 0, 0, 360, value, -1, cv2.LINE_AA)

    spot(0, 0.38, pet.muzzle, pet.muzzle * 0.75, 1.18)
    for side in (-1, 1):
        spot(side * 0.36, -0.12, 0.15, 0.13, 0.25)
        spot(side * 0.36 + 0.04, -0.16, 0.04, 0.04, 2.4)
    spot(0, 0.2, 0.13, 0.09, 0.3)
    spot(0, 0.55, 0.2, 0.02, 0.4)


# -- colours --------------------------------------------------------------------------------------------------------


def _fur(pet: Look, width: int, height: int, rng: np.random.Generator) -> Field:
    grain = _noise(width, height, (1.5, 6.0), rng) * 14 + _noise(width, height, (30.0, 30.0), rng) * 10
    if isinstance(pet.fur, str):
        patch = skimage.data.chelsea()[FOREHEAD]
        patch = cv2.resize(patch, None, fx=width / 600, fy=width / 600, interpolation=cv2.INTER_CUBIC)
        room = ((0, max(0, height - patch.shape[0])), (0, max(0, width - patch.shape[1])), (0, 0))
        base = np.pad(patch, room, mode="symmetric")[:height, :width].astype(np.float32)
        return np.asarray(base + grain[..., None] * 0.6, np.float32)
    tint = np.asarray([1.0, 0.95, 0.85], np.float32)
    return np.asarray(np.asarray(pet.fur, np.float32) + grain[..., None] * tint, np.float32)


def _noise(width: int, height: int, sigma: tuple[float, float], rng: np.random.Generator) -> Field:
    """Noise of standard deviation 1, `sigma` photo pixels smooth across and down, for a photo 1000 pixels wide."""
    scale = width / 1000
    small = max(1.0, min(sigma) * scale / 2)
    size = (max(8, round(width / small)), max(8, round(height / small)))
    field = rng.standard_normal((size[1], size[0]), np.float32)
    field = cv2.GaussianBlur(field, (0, 0), sigma[0] * scale / small, sigmaY=sigma[1] * scale / small)
    field /= max(float(field.std()), 1e-6)
    return np.asarray(cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _texture(name: str, width: int, height: int) -> Field:
    """One of scikit-image's CC0 textures, mirrored to fill the photo, 0..1."""
    tile = np.asarray(getattr(skimage.data, name)(), np.float32) / 255
    scale = width / 1400
    tile = cv2.resize(tile, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    room = ((0, max(0, height - tile.shape[0])), (0, max(0, width - tile.shape[1])))
    return np.pad(tile, room, mode="symmetric")[:height, :width]


def _background(name: str, fur: Field, width: int, height: int, rng: np.random.Generator) -> Field:
    ramp = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    if name == "plain":
        return rng.uniform(60, 190, 3).astype(np.float32) + ramp * 15 + np.zeros((height, width, 1), np.float32)
    if name == "bokeh":
        hue = np.stack([_noise(width, height, (40, 40), rng) for _ in range(3)], -1)
        return np.asarray(rng.uniform(70, 170, 3) + hue * 26, np.float32)
    if name in ("wall", "grass", "gravel"):
        texture = _texture({"wall": "brick"}.get(name, name), width, height)
        tint = {"wall": (190, 120, 95), "grass": (110, 160, 70), "gravel": (170, 165, 155)}[name]
        return np.asarray(texture[..., None] * np.asarray(tint, np.float32) * 1.5, np.float32)
    if name == "room":
        return _room(width, height, rng)
    mean = fur.reshape(-1, 3).mean(0)
    blotches = _noise(width, height, (25, 25), rng)[..., None] * 22 + _noise(width, height, (4, 4), rng)[..., None] * 12
    return np.asarray(mean * ALIKE + blotches, np.float32)


def _room(width: int, height: int, rng: np.random.Generator) -> Field:
    """Shelves, boxes and lamps, a little out of focus."""
    scene = np.zeros((height, width, 3), np.float32) + rng.uniform(120, 200, 3).astype(np.float32)
    for _ in range(28):
        left, top = rng.integers(-width // 8, width), rng.integers(-height // 8, height)
        right, bottom = left + rng.integers(width // 14, width // 4), top + rng.integers(height // 14, height // 3)
        colour = tuple(float(v) for v in rng.uniform(30, 235, 3))
        cv2.rectangle(scene, (int(left), int(top)), (int(right), int(bottom)), colour, -1)
    scene += _noise(width, height, (2, 2), rng)[..., None] * 9
    return np.asarray(cv2.GaussianBlur(scene, (0, 0), 2.5 * width / 1000), np.float32)
