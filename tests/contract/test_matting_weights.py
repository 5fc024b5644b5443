"""A matting model's file in a bucket, on the emulator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from serve_app.errors import WeightsUnavailable
from serve_app.google_clients import make_clients
from serve_app.matting_weights import locate_matting
from serve_app.settings import Settings
from serve_app.settings_headshots import HeadshotSettings
from serve_app.settings_sections import EngineSettings


def test_a_buckets_file_is_copied_once(emulators: Mapping[str, str], tmp_path: Path) -> None:
    name = f"models-{tmp_path.parent.name.lower()}"
    settings = Settings(
        env="gcp",
        project_id="demo-models",
        headshots=HeadshotSettings(matting_gcs=f"gs://{name}/nets/a.onnx"),
        engines=EngineSettings(weights_dir=tmp_path),
    )
    bucket = make_clients(settings).storage.create_bucket(name)
    with pytest.raises(WeightsUnavailable, match=r"gs://.*a\.onnx"):
        locate_matting(settings, None)
    blob = bucket.blob("nets/a.onnx")
    blob.upload_from_string(b"a network")
    path = locate_matting(settings, None)
    assert path.read_bytes() == b"a network"
    blob.delete()
    assert locate_matting(settings, None) == path
