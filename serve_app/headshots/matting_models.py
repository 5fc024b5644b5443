"""The matting networks a headshot can be made with: how each wants its pixels, and what its numbers mean.

U²-Net: Qin et al., "U²-Net: Going Deeper with Nested U-Structure for Salient Object Detection", Pattern Recognition
2020. IS-Net: Qin et al., "Highly Accurate Dichotomous Image Segmentation", ECCV 2022. BiRefNet: Zheng et al.,
"Bilateral Reference for High-Resolution Dichotomous Image Segmentation", CAAI AIR 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serve_app.errors import ConfigurationError

Channels = tuple[float, float, float]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class MattingModel:
    """One network.

    The photo, RGB, is scaled to `side_px` × `side_px` whatever its proportions, divided by `input_scale` ("max": its
    largest value, "255"), less `mean`, over `std`, per channel. `output` says what makes alpha of the answer: "minmax"
    stretches the first output to 0..1, "sigmoid" takes the last output as logits. `weights` is the file's name in
    `serve_app.weights.MANIFEST`, or None where whoever wants the model brings the file.
    """

    name: str
    side_px: int
    mean: Channels
    std: Channels
    input_scale: Literal["max", "255"]
    output: Literal["minmax", "sigmoid"]
    licence: str
    weights: str | None


MODELS: dict[str, MattingModel] = {
    row.name: row
    for row in (
        MattingModel("u2netp", 320, IMAGENET_MEAN, IMAGENET_STD, "max", "minmax", "Apache-2.0", "u2netp"),
        MattingModel("u2net", 320, IMAGENET_MEAN, IMAGENET_STD, "max", "minmax", "Apache-2.0", "u2net"),
        # The exported file is distributed in packages under the AGPL only, so nothing here fetches it.
        MattingModel("isnet", 1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), "max", "minmax", "AGPL-3.0 packages", None),
        MattingModel("birefnet", 1024, IMAGENET_MEAN, IMAGENET_STD, "255", "sigmoid", "MIT", None),
    )
}


def get_matting_model(name: str) -> MattingModel:
    """Raises ConfigurationError, with the names that there are."""
    if name not in MODELS:
        raise ConfigurationError(
            f"PAWFECT_HEADSHOTS__MATTING_MODEL: '{name}' is no matting model; accepted are {', '.join(MODELS)}."
        )
    return MODELS[name]
