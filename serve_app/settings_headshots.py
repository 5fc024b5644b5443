"""The sections of the settings that headshots added: their making, and links to files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from serve_app.settings_sections import Section


class HeadshotSettings(Section):
    """The black-and-white headshots: the model that cuts the pet out, the sizes, the look, and what is too poor."""

    matting_model: str = Field("u2netp", description="row of the matting models: u2netp, u2net, isnet, birefnet")
    matting_path: Path | None = Field(
        None,
        description="ONNX file of that model; empty = the pinned one of engines.weights_dir",
        json_schema_extra={"also": "MATTING_MODEL_PATH"},
    )
    matting_gcs: str = Field(
        "",
        pattern=r"^(gs://[^/]+/.+)?$",
        description="the same as gs://bucket/object, copied once into engines.weights_dir, or to matting_path where "
        "there is no file yet",
        json_schema_extra={"also": "MATTING_MODEL_GCS"},
    )
    matting_hub: str = Field(
        "",
        pattern=r"^([^/@]+/[^/@]+@[0-9a-f]{40}/.+)?$",
        description="the same as owner/repository@commit/file on the model hub, copied once into engines.weights_dir",
    )
    threads: int = Field(0, ge=0, le=256, description="threads of the matting model; 0 = one per core")
    cuda: bool = Field(
        False,
        description="run the matting model on a GPU; needs the onnxruntime-gpu package",
        json_schema_extra={"also": "ORT_CUDA"},
    )
    preview_long_edge: int = Field(
        1600,
        ge=64,
        le=8192,
        description="long edge of preview.png, in pixels, at most",
        json_schema_extra={"also": "PREVIEW_LONG_EDGE"},
    )
    print_long_edge: int = Field(
        3000,
        ge=64,
        le=8192,
        description="long edge of print.png, in pixels, at most; nothing is enlarged",
        json_schema_extra={"also": "PRINT_LONG_EDGE"},
    )
    policy: Literal["report", "reject"] = Field(
        "report", description="what becomes of a photo below the limits: its headshot with the reasons, or none"
    )
    min_long_edge: int = Field(1500, ge=1, description="a shorter long edge is image_too_small, in pixels")
    min_sharpness: float = Field(
        40.0,
        ge=0,
        description="a smaller variance of the Laplacian, of the pet at a long edge of 1500 pixels, is image_blurry",
    )
    min_luminance: float = Field(0.08, ge=0, le=1, description="a smaller mean luma of the pet is image_too_dark")
    max_luminance: float = Field(0.92, ge=0, le=1, description="a larger mean luma of the pet is image_too_bright")
    max_clipped: float = Field(
        0.35, ge=0, le=1, description="a larger share of the pet black or white is image_too_dark or image_too_bright"
    )
    min_subject: float = Field(
        0.03, ge=0, le=1, description="a smaller share of the photo covered by the pet is subject_too_small"
    )
    shoulder: float = Field(0.85, gt=0, lt=1, description="tone above which highlights are compressed softly")
    local_contrast: float = Field(0.5, ge=0, le=2, description="strength of the edge-aware local contrast")
    neck_fade: float = Field(0.25, ge=0, le=1, description="share of the height, from below, that fades out at most")
    anonymous: bool = Field(
        False,
        description="gcp: headshots may be asked for without a token; such a caller gets no link to the print; of a "
        "photo too small for a larger print the preview is the same picture",
    )
    slots: int = Field(2, ge=1, le=256, description="headshots one Editor has under way at a time")
    ttl_s: float = Field(
        30 * 86400,
        ge=7 * 86400,
        le=10 * 365 * 86400,
        description="a headshot is forgotten with its images so long after its deadline, in seconds; the original "
        "that a message named stays",
    )

    @model_validator(mode="after")
    def _have_one_source(self) -> Self:
        if self.matting_hub and (self.matting_path or self.matting_gcs):
            raise ValueError("MATTING_HUB and MATTING_PATH or MATTING_GCS name different files; give one of them")
        return self


class LinkSettings(Section):
    """Links to files: signed, and of use for a while."""

    public_url: str = Field(
        "",
        pattern=r"^(https?://[^/]+)?$",
        description="scheme and host that links to this service begin with; empty = http://127.0.0.1:PORT",
    )
    upload_ttl_s: int = Field(
        900,
        ge=1,
        le=7 * 86400,
        description="how long a link for an upload can be used, in seconds",
        json_schema_extra={"also": "UPLOAD_URL_TTL"},
    )
    download_ttl_s: int = Field(
        3600,
        ge=1,
        le=7 * 86400,
        description="how long a link to a result can be used, in seconds",
        json_schema_extra={"also": "DOWNLOAD_URL_TTL"},
    )
