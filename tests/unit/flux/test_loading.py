"""Loading: what comes out is whole and ready, and every way in which files can be wrong is told apart."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel
from transformers.utils import logging as transformers_logging

from serve_app.errors import ConfigurationError, WeightsUnavailable
from serve_app.flux import loading
from serve_app.flux.checkpoint import Checkpoint
from serve_app.flux.loading import Parts, choose_device, choose_dtype, load_parts, load_text_encoder
from serve_app.flux.quantization import save_quantized
from serve_app.flux.spec import SPECS, ModelSpec

FILL, BASE = SPECS["flux-fill-dev"], SPECS["flux-dev"]
DIFFUSERS = "diffusion_pytorch_model.safetensors"
TRANSFORMERS = "model.safetensors"


def load(folder: Path, spec: ModelSpec = FILL, **choices: Any) -> Parts:
    given = {"device": "cpu", "dtype": "auto", "quantization": "none", "memory_share": None, **choices}
    return load_parts(Checkpoint(folder, "0" * 16), spec, **given)


def load_encoder(folder: Path, **choices: Any) -> Any:
    return load_text_encoder(Checkpoint(folder, "0" * 16), FILL, **choices)


def load_everything(folder: Path) -> None:
    load(folder)
    load_encoder(folder)


@pytest.fixture
def copy(tiny_fill: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_fill, tmp_path / "copy")


def rewrite(path: Path, change: Any) -> None:
    """Apply `change` to the tensors of a file, by name."""
    tensors = load_file(path)
    changed = change({name: tensor.clone() for name, tensor in tensors.items()})
    save_file(changed, path, metadata={"format": "pt"})


def without(name: str) -> Any:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


# -- what comes out --------------------------------------------------------------------------------------------------


def test_parts_are_those_of_the_checkpoint_ready_for_inference(tiny_fill: Path) -> None:
    parts = load(tiny_fill)
    assert parts.spec is FILL
    assert parts.device == torch.device("cpu")
    assert parts.dtype is torch.float32
    for model, file in ((parts.transformer, f"transformer/{DIFFUSERS}"), (parts.vae, f"vae/{DIFFUSERS}")):
        stored = load_file(tiny_fill / file)
        assert model.state_dict().keys() == stored.keys()
        assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert parts.scheduler.config.use_dynamic_shifting
    assert parts.scheduler.config.base_shift == 0.5


def test_both_models_load_under_their_rows(tiny_fill: Path, tiny_base: Path) -> None:
    assert load(tiny_fill, FILL).transformer.config.in_channels == 384
    assert load(tiny_base, BASE).transformer.config.in_channels == 64


def test_bfloat16_is_had_for_the_asking(tiny_fill: Path) -> None:
    parts = load(tiny_fill, dtype="bfloat16")
    assert parts.dtype is torch.bfloat16
    assert {parameter.dtype for parameter in parts.transformer.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in parts.vae.parameters()} == {torch.bfloat16}


def test_the_transformer_is_quantized_and_the_vae_is_not(tiny_fill: Path) -> None:
    parts = load(tiny_fill, quantization="float8")
    assert parts.transformer.transformer_blocks[0].attn.to_q.weight._data.dtype is torch.float8_e4m3fn
    assert {type(parameter) for parameter in parts.vae.parameters()} == {torch.nn.Parameter}
    assert not parts.transformer.training


def test_a_snapshot_is_read_instead_of_the_whole_transformer(copy: Path) -> None:
    made = load(copy, quantization="float8").transformer
    save_quantized(made, "float8", copy)
    (copy / "transformer" / DIFFUSERS).unlink()
    read = load(copy, quantization="float8").transformer
    weights = [model.transformer_blocks[0].attn.to_q.weight.dequantize() for model in (made, read)]
    assert torch.equal(*weights)
    assert not read.training
    with pytest.raises(ConfigurationError, match="copy/transformer cannot be loaded"):
        load(copy, quantization="none")


def test_loading_is_silent_and_leaves_the_bars_as_they_were(
    copy: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    split(copy)
    switches = (diffusers_logging, transformers_logging)
    capfd.readouterr()
    caplog.set_level(logging.INFO, logger="serve_app")
    load_everything(copy)
    assert capfd.readouterr() == ("", "")
    assert all(module.is_progress_bar_enabled() for module in switches)
    assert "flux-fill-dev is on cpu: torch.float32, quantization none" in caplog.text


def test_text_encoders_come_in_the_dtype_they_are_stored_in(copy: Path) -> None:
    assert load_encoder(copy).dtype is torch.float32
    T5EncoderModel.from_pretrained(copy / "text_encoder_2", dtype=torch.bfloat16).save_pretrained(
        copy / "text_encoder_2"
    )
    assert load_encoder(copy).dtype is torch.bfloat16
    assert load_encoder(copy, dtype="float32").dtype is torch.float32


def test_text_encoders_encode(tiny_fill: Path) -> None:
    encoder = load_encoder(tiny_fill)
    assert encoder.lengths == FILL.text_lengths
    embedding = encoder.encode("a grey cat")
    assert embedding.tokens.shape == (128, 32)
    assert embedding.pooled.shape == (32,)
    assert not torch.equal(embedding.tokens, encoder.encode("a white dog").tokens)


def test_files_as_they_were_published_are_read_alike(tiny_fill: Path, copy: Path) -> None:
    """The published CLIP names its weights text_model.…, and its tokenizer comes as vocabulary and merges."""
    rewrite(
        copy / "text_encoder" / TRANSFORMERS,
        lambda tensors: {f"text_model.{name}": tensor for name, tensor in tensors.items()},
    )
    tokenizer = copy / "tokenizer" / "tokenizer.json"
    (copy / "tokenizer" / "vocab.json").write_text(json.dumps(json.loads(tokenizer.read_text())["model"]["vocab"]))
    (copy / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    tokenizer.unlink()
    ours, published = (load_encoder(folder).encode("a grey cat") for folder in (tiny_fill, copy))
    assert torch.equal(ours.pooled, published.pooled)
    assert torch.equal(ours.tokens, published.tokens)


# -- choices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        ({"device": "tpu"}, "no device 'tpu'; accepted are auto, cpu, cuda"),
        ({"dtype": "float16"}, "no dtype 'float16'; accepted are auto, float32, bfloat16"),
        ({"quantization": "int4"}, "no quantization 'int4'; known are none, float8"),
        ({"memory_share": 0.0}, r"is 0\.0; accepted are numbers in \(0, 1\]"),
        ({"memory_share": 1.5}, r"is 1\.5; accepted are numbers in \(0, 1\]"),
        ({"memory_share": float("nan")}, r"is nan; accepted are numbers in \(0, 1\]"),
    ],
)
def test_a_wrong_choice_is_refused_before_any_file_is_read(tmp_path: Path, choice: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        load(tmp_path / "nowhere", **choice)


def test_a_share_of_memory_means_nothing_to_a_cpu(tiny_fill: Path) -> None:
    assert load(tiny_fill, memory_share=0.25).device.type == "cpu"


def test_auto_is_bfloat16_on_cuda_and_float32_elsewhere() -> None:
    assert choose_dtype("auto", torch.device("cuda", 0)) is torch.bfloat16
    assert choose_dtype("auto", torch.device("cpu")) is torch.float32
    assert choose_dtype("float32", torch.device("cuda", 0)) is torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused() -> None:
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigurationError, match="this process sees no GPU"):
        choose_device("cuda")


# -- another model's checkpoint --------------------------------------------------------------------------------------


def test_another_models_checkpoint_is_refused_with_the_models_it_fits(tiny_fill: Path, tiny_base: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tiny_base, FILL)
    path = tiny_base / "transformer" / "config.json"
    assert caught.value.message == f"{path} has in_channels 64 where flux-fill-dev wants 384; it fits flux-dev."
    with pytest.raises(ConfigurationError, match="in_channels 384 where flux-dev wants 64; it fits flux-fill-dev"):
        load(tiny_fill, BASE)


def test_another_models_snapshot_is_refused(copy: Path, tiny_base: Path) -> None:
    save_quantized(load(tiny_base, BASE, quantization="float8").transformer, "float8", copy)
    with pytest.raises(ConfigurationError, match=r"copy/transformer-float8/config\.json has in_channels 64"):
        load(copy, quantization="float8")
    load(copy, quantization="none")


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("guidance_embeds", False, "guidance_embeds False where flux-fill-dev wants True; it fits no known model"),
        ("guidance_embeds", None, "guidance_embeds False where flux-fill-dev wants True"),
        ("in_channels", None, "in_channels 64 where flux-fill-dev wants 384; it fits flux-dev"),
        (
            "_class_name",
            "Flux2Transformer2DModel",
            "_class_name Flux2Transformer2DModel where flux-fill-dev wants Flux",
        ),
    ],
)
def test_a_transformer_built_otherwise_is_refused_before_its_weights_are_read(
    copy: Path, key: str, value: Any, named: str
) -> None:
    path = copy / "transformer" / "config.json"
    config = json.loads(path.read_text()) | {key: value}
    path.write_text(json.dumps({name: kept for name, kept in config.items() if kept is not None}))
    (copy / "transformer" / DIFFUSERS).unlink()
    with pytest.raises(ConfigurationError, match=named):
        load(copy)


# -- damaged files ---------------------------------------------------------------------------------------------------


def split(checkpoint: Path) -> list[Path]:
    """The transformer in three files with an index, as large ones are published."""
    folder = checkpoint / "transformer"
    model = FluxTransformer2DModel.from_pretrained(folder)
    (folder / DIFFUSERS).unlink()
    model.save_pretrained(folder, max_shard_size="800KB")
    shards = sorted(folder.glob("*-of-00003.safetensors"))
    assert len(shards) == 3
    return shards


def test_shards_are_loaded_all(copy: Path, tiny_fill: Path) -> None:
    split(copy)
    stored = load_file(tiny_fill / "transformer" / DIFFUSERS)
    loaded = load(copy).transformer.state_dict()
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in loaded.items())


def test_a_weight_that_the_index_names_and_the_shard_lacks_is_named(copy: Path) -> None:
    shard = split(copy)[1]
    lost = next(iter(load_file(shard)))
    rewrite(shard, without(lost))
    with pytest.raises(ConfigurationError, match=f"transformer lacks 1 weights: {lost}$"):
        load(copy)


@pytest.mark.parametrize(
    ("file", "lost"),
    [
        (f"transformer/{DIFFUSERS}", "proj_out.bias"),
        (f"vae/{DIFFUSERS}", "decoder.conv_in.weight"),
        (f"text_encoder/{TRANSFORMERS}", "final_layer_norm.bias"),
        (f"text_encoder_2/{TRANSFORMERS}", "encoder.block.1.layer.0.SelfAttention.k.weight"),
        (f"text_encoder_2/{TRANSFORMERS}", "shared.weight"),
    ],
)
def test_a_missing_weight_is_named_instead_of_made_up(copy: Path, file: str, lost: str) -> None:
    rewrite(copy / file, without(lost))
    with pytest.raises(ConfigurationError) as caught:
        load_everything(copy)
    assert caught.value.message.startswith(f"{(copy / file).parent} lacks ")
    assert lost in caught.value.message


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (f"transformer/{DIFFUSERS}", "proj_out.weight"),
        (f"vae/{DIFFUSERS}", "decoder.conv_in.weight"),
        (f"text_encoder/{TRANSFORMERS}", "embeddings.token_embedding.weight"),
        (f"text_encoder_2/{TRANSFORMERS}", "shared.weight"),
    ],
)
def test_a_weight_of_another_shape_is_refused(copy: Path, file: str, name: str) -> None:
    rewrite(copy / file, lambda tensors: tensors | {name: tensors[name][:1].clone()})
    with pytest.raises(ConfigurationError, match=f"{(copy / file).parent} cannot be loaded: "):
        load_everything(copy)


@pytest.mark.parametrize(
    "file",
    [
        f"transformer/{DIFFUSERS}",
        f"vae/{DIFFUSERS}",
        f"text_encoder/{TRANSFORMERS}",
        f"text_encoder_2/{TRANSFORMERS}",
        "transformer/config.json",
        "vae/config.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/tokenizer.json",
        "tokenizer_2/tokenizer.json",
    ],
)
@pytest.mark.parametrize("left", [0, 100])
def test_a_cut_file_is_refused_with_its_part(copy: Path, file: str, left: int) -> None:
    (copy / file).write_bytes((copy / file).read_bytes()[:left])
    with pytest.raises(ConfigurationError, match=rf"{(copy / file).parent}\S* cannot be loaded: "):
        load_everything(copy)


def test_pickled_weights_are_not_unpickled(copy: Path) -> None:
    (copy / "vae" / DIFFUSERS).unlink()
    torch.save({}, copy / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"no file named diffusion_pytorch_model\.safetensors"):
        load(copy)


def test_files_that_cannot_be_read_may_come_back(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"config\.json cannot be read: .*No such file"):
        load(tmp_path / "gone")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no room")])
def test_too_little_memory_is_permanent(tmp_path: Path, error: Exception) -> None:
    def read() -> None:
        with loading._reading(tmp_path):
            raise error

    with pytest.raises(ConfigurationError, match="does not fit into the memory it may take"):
        read()
