"""A contact sheet of headshots: per photo one row with the input, its alpha on magenta, the result on white and black.

`python -m bench.headshot_sheet PHOTO… --out docs/headshots.jpg` makes each headshot as the service does, with its
default settings and the embedded model. The caption below a row names the photo and the reasons of its quality gate; a
photo that no headshot can be made of has these reasons and no more pictures. Small results are enlarged to their cell.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from serve_app.errors import HeadshotRejected
from serve_app.headshots.matting import Matting, load_matting
from serve_app.headshots.matting_models import MODELS
from serve_app.headshots.pipeline import make_headshot
from serve_app.photos.codec import decode_photo
from serve_app.settings import Settings
from serve_app.weights import locate

CELL_WIDTH, CELL_HEIGHT = 400, 500  # pixels; 4 : 5, as a headshot
CAPTION_HEIGHT = 26  # pixels
GAP = 8  # pixels
JPEG_QUALITY = 85
PAPER, INK = (236, 236, 236), (40, 40, 40)
BACKGROUNDS = {"alpha": (255, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}


def make_sheet(photos: list[Path], matting: Matting, settings: Settings) -> Image.Image:
    """One row per photo."""
    row_height = CELL_HEIGHT + CAPTION_HEIGHT + GAP
    sheet = Image.new("RGB", (4 * (CELL_WIDTH + GAP) + GAP, len(photos) * row_height + GAP), PAPER)
    for row, path in enumerate(photos):
        image = decode_photo(path.read_bytes(), settings.photos, path.name).pixels
        cells, caption = make_row(image, matting, settings)
        for column, cell in enumerate(cells):
            sheet.paste(cell, (GAP + column * (CELL_WIDTH + GAP), GAP + row * row_height))
        place = (GAP, GAP + row * row_height + CELL_HEIGHT + 4)
        ImageDraw.Draw(sheet).text(place, f"{path.stem}: {caption}", INK, ImageFont.load_default(15))
    return sheet


def make_row(image: NDArray[np.uint8], matting: Matting, settings: Settings) -> tuple[list[Image.Image], str]:
    """The cells of a photo [H, W, 3] uint8 RGB, and its caption."""
    cells = [_fit(Image.fromarray(image), PAPER)]
    try:
        made = make_headshot(image, matting, settings.headshots, lambda *_: None)
    except HeadshotRejected as rejection:
        return cells, f"no headshot: {', '.join(rejection.quality['reasons'])}"
    preview = Image.open(io.BytesIO(made.preview))
    cells += [_lay(preview, name) for name in BACKGROUNDS]
    return cells, ", ".join(made.quality.reasons) or "passes"


def _lay(result: Image.Image, name: str) -> Image.Image:
    """On magenta the alpha alone counts: the subject is flat white, so that every edge shows."""
    ground = Image.new("RGB", result.size, BACKGROUNDS[name])
    subject = Image.new("RGB", result.size, (255, 255, 255)) if name == "alpha" else result.convert("RGB")
    ground.paste(subject, mask=result.getchannel("A"))
    return _fit(ground, BACKGROUNDS[name])


def _fit(image: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
    cell = Image.new("RGB", (CELL_WIDTH, CELL_HEIGHT), ground)
    image = ImageOps.contain(image, (CELL_WIDTH, CELL_HEIGHT), Image.Resampling.LANCZOS)
    cell.paste(image, ((CELL_WIDTH - image.width) // 2, (CELL_HEIGHT - image.height) // 2))
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="photos, one row each")
    parser.add_argument("--out", type=Path, default=Path("docs/headshots.jpg"), help="the sheet, a JPEG")
    arguments = parser.parse_args()
    settings = Settings(_env_file=None)
    model = MODELS[settings.headshots.matting_model]
    path = settings.headshots.matting_path or locate(model.weights or model.name, settings.engines.weights_dir)
    matting = load_matting(path, model, threads=settings.headshots.threads)
    make_sheet(arguments.photos, matting, settings).save(arguments.out, quality=JPEG_QUALITY, optimize=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
