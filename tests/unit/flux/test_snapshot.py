"""What is put into a checkpoint beforehand is what a replica then uses."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from serve_app.engines.protocol import Crop, FillRequest
from serve_app.errors import ConfigurationError
from serve_app.flux.assembly import load_encoder, load_engine
from serve_app.flux.prompts import local_encoder
from serve_app.flux.snapshot import main
from serve_app.flux.text import TextEmbedding
from serve_app.metrics import PlainSink
from serve_app.settings import DEFAULT_PROMPT
from serve_app.settings_sections import FluxSettings
from tests.unit.flux.test_equality import Listener, make_crop


@pytest.fixture
def checkpoint(tiny_fill: Path, tmp_path: Path) -> Path:
    folder: Path = shutil.copytree(tiny_fill, tmp_path / "fill")
    return folder


def make_settings(checkpoint: Path, tmp_path: Path, **options: str) -> FluxSettings:
    checkpoints = {"flux-fill-dev": str(checkpoint)}
    return FluxSettings.model_validate(
        {"checkpoints": checkpoints, "device": "cpu", "prompt_dir": tmp_path / "prompts", **options}
    )


def make_request(crop: Crop, prompt: str = DEFAULT_PROMPT) -> FillRequest:
    return FillRequest(request_id="job", crops=(crop,), prompt=prompt, steps=2, guidance=30.0, seed=1)


def refuse(prompt: str) -> Future[TextEmbedding]:
    raise AssertionError(f"the encoders are not needed for {prompt!r}")


def test_with_a_snapshot_the_encoders_are_not_needed(checkpoint: Path, tmp_path: Path) -> None:
    assert main([str(checkpoint), "--quantization", "float8", "--dtype", "float32"]) == 0
    assert (checkpoint / "transformer-float8").is_dir()
    sink = PlainSink()
    settings = make_settings(checkpoint, tmp_path, quantization="float8")
    engine = load_engine(settings, "flux-fill-dev", refuse, sink=sink, token=None)
    listener = Listener()
    engine.submit(make_request(make_crop()), listener.events.put)
    assert listener.image().shape == make_crop().image.shape
    engine.close()
    assert sink.value("pawfect_prompts_total", source="disk") == 1
    assert sink.value("pawfect_engine_tick_seconds_count", engine="flux", work="step") == 2


def test_a_model_without_a_checkpoint_is_not_loaded(checkpoint: Path, tmp_path: Path) -> None:
    settings = make_settings(checkpoint, tmp_path)
    with pytest.raises(ConfigurationError, match="flux-dev has no checkpoint"):
        load_encoder(settings, "flux-dev", token=None)


def test_other_prompts_are_asked_for_once(checkpoint: Path, tmp_path: Path) -> None:
    settings = make_settings(checkpoint, tmp_path)
    encode = local_encoder(load_encoder(settings, "flux-fill-dev", token=None))
    for source in ("encoded", "disk"):  # the second engine is a replica that comes later
        sink = PlainSink()
        engine = load_engine(settings, "flux-fill-dev", encode, sink=sink, token=None)
        listener = Listener()
        engine.submit(make_request(make_crop(), "a cat on sand"), listener.events.put)
        listener.image()
        engine.close()
        assert sink.value("pawfect_prompts_total", source=source) == 1
        while not list(settings.prompt_dir.glob("*.safetensors")):  # it is written behind the request's back
            time.sleep(0.01)


def test_a_folder_that_is_no_checkpoint_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "is no whole checkpoint" in capsys.readouterr().err
