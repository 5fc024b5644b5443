"""Quantized transformers compute what they should, stay clear of unchecked kernels, and are kept exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from optimum import quanto
from optimum.quanto.library.extensions import extension
from optimum.quanto.nn import QLinear
from optimum.quanto.tensor.weights import marlin
from optimum.quanto.tensor.weights.qbytes import WeightQBytesTensor
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from serve_app.errors import ConfigurationError, WeightsUnavailable
from serve_app.flux.float8 import WEIGHTS, check_kernels
from serve_app.flux.quantization import QUANTIZATIONS, load_quantized, quantize, save_quantized

FLOAT8_STEP = 2**-4  # e4m3 keeps three bits after the leading one, so rounding moves a number by 1/16 of itself at most
UNTOUCHED = {
    "x_embedder",
    "context_embedder",
    "time_text_embed.timestep_embedder.linear_1",
    "time_text_embed.timestep_embedder.linear_2",
    "time_text_embed.guidance_embedder.linear_1",
    "time_text_embed.guidance_embedder.linear_2",
    "time_text_embed.text_embedder.linear_1",
    "time_text_embed.text_embedder.linear_2",
    "norm_out.linear",
    "proj_out",
}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture
def transformer(tiny_fill: Path) -> Any:
    return read(tiny_fill)


def read(checkpoint: Path, dtype: torch.dtype = torch.float32) -> Any:
    return FluxTransformer2DModel.from_pretrained(checkpoint / "transformer", dtype=dtype).eval()


def run(transformer: Any) -> torch.Tensor:
    """[1, 16, 64] float32: one call with fixed inputs."""
    generator = torch.Generator().manual_seed(1)
    dtype = transformer.dtype

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    with torch.inference_mode():
        result: torch.Tensor = transformer(
            hidden_states=draw(1, 16, 384),
            encoder_hidden_states=draw(1, 8, 32),
            pooled_projections=draw(1, 32),
            timestep=torch.tensor([0.5], dtype=dtype),
            guidance=torch.tensor([30.0]),
            img_ids=torch.zeros(16, 3),
            txt_ids=torch.zeros(8, 3),
            return_dict=False,
        )[0]
    return result.float()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def linear_layers(transformer: Any) -> dict[str, Any]:
    return {name: layer for name, layer in transformer.named_modules() if isinstance(layer, torch.nn.Linear)}


def test_without_quantization_nothing_changes(transformer: Any) -> None:
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    quantize(transformer, "none")
    after = transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_unknown_name_is_answered_with_the_known_ones(transformer: Any) -> None:
    with pytest.raises(ConfigurationError, match="no quantization 'int4'; known are none, float8"):
        quantize(transformer, "int4")


@pytest.mark.parametrize("row", QUANTIZATIONS.values(), ids=lambda row: row.name)
def test_a_row_says_what_it_is(row: Any) -> None:
    assert QUANTIZATIONS[row.name] is row
    assert row.description
    assert row.notes


def test_the_blocks_linear_layers_become_float8_and_no_others(transformer: Any) -> None:
    quantize(transformer, "float8")
    layers = linear_layers(transformer)
    quantized = {name for name, layer in layers.items() if isinstance(layer, QLinear)}
    assert layers.keys() - quantized == UNTOUCHED
    for name in quantized:
        assert type(layers[name].weight) is WeightQBytesTensor
        assert layers[name].weight._data.dtype is torch.float8_e4m3fn
        assert layers[name].weight._scale.shape == (layers[name].out_features, 1)
    assert not any(parameter.requires_grad for parameter in transformer.parameters())


@DTYPES
def test_results_move_a_little_and_by_nothing_but_the_rounding_of_weights(tiny_fill: Path, dtype: torch.dtype) -> None:
    transformer, whole, rounded = (read(tiny_fill, dtype) for _ in range(3))
    quantize(transformer, "float8")
    for name, layer in linear_layers(rounded).items():
        if name not in UNTOUCHED:
            scale = layer.weight.abs().amax(dim=1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
            layer.weight.data = scale * (layer.weight / scale).to(torch.float8_e4m3fn).to(dtype)
    assert 1e-4 < distance(run(transformer), run(whole)) < FLOAT8_STEP
    assert distance(run(transformer), run(rounded)) < (1e-6 if dtype is torch.float32 else 5e-3)


@DTYPES
def test_a_layer_adds_its_bias(tiny_fill: Path, dtype: torch.dtype) -> None:
    transformer = read(tiny_fill, dtype)
    quantize(transformer, "float8")
    layer = transformer.transformer_blocks[0].attn.to_q
    layer.bias.data.fill_(3.0)
    with torch.inference_mode():
        assert torch.equal(
            layer(torch.zeros(2, 5, layer.in_features, dtype=dtype)), torch.full((2, 5, 64), 3.0).to(dtype)
        )
        inputs = torch.ones(2, 5, layer.in_features, dtype=dtype)
        expected = torch.nn.functional.linear(inputs, layer.weight.dequantize(), layer.bias)
        torch.testing.assert_close(layer(inputs), expected)


def test_a_row_of_zeros_stays_one(transformer: Any) -> None:
    layer = transformer.single_transformer_blocks[1].proj_mlp
    layer.weight.data[7] = 0
    quantize(transformer, "float8")
    weight = transformer.single_transformer_blocks[1].proj_mlp.weight.dequantize()
    assert bool((weight[7] == 0).all())
    assert bool(run(transformer).isfinite().all())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["proj_out.bias", "x_embedder.weight", "transformer_blocks.1.ff.net.2.weight"])
def test_weights_that_are_no_numbers_are_refused_by_name(transformer: Any, name: str, value: float) -> None:
    transformer.get_parameter(name).data.view(-1)[3] = value
    with pytest.raises(ConfigurationError, match=f"{name} has values that are not finite"):
        quantize(transformer, "float8")


# -- the kernels quanto would choose on a GPU ------------------------------------------------------------------------


@pytest.fixture
def _cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """What quanto asks about a machine with a GPU of capability 8.9, answered as there."""
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (8, 9))
    monkeypatch.setattr(marlin, "MarlinF8QBytesTensor", lambda *_: "marlin")
    register_extension(monkeypatch)


def register_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """As importing quanto does in a new process on such a machine."""
    monkeypatch.setitem(extension._extensions, "quanto_cuda", object())


def arrive_on_cuda() -> Any:
    """What quanto makes of a float8 weight with bfloat16 scales that comes to a GPU; the tensors have no memory."""
    with FakeTensorMode():
        data = torch.empty(128, 64, dtype=torch.float8_e4m3fn, device="cuda")
        scale = torch.empty(128, 1, dtype=torch.bfloat16, device="cuda")
        return WeightQBytesTensor.create(quanto.qfloat8, 0, data.size(), data.stride(), data, scale)


@pytest.mark.usefixtures("_cuda")
def test_quanto_alone_picks_marlin() -> None:
    assert arrive_on_cuda() == "marlin"


@pytest.mark.usefixtures("_cuda")
def test_a_quantized_weight_stays_plain_on_cuda(transformer: Any) -> None:
    quantize(transformer, "float8")
    assert type(arrive_on_cuda()) is WeightQBytesTensor


@pytest.mark.usefixtures("_cuda")
def test_a_loaded_snapshot_stays_plain_on_cuda(
    transformer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(transformer, "float8")
    save_quantized(transformer, "float8", tmp_path)
    register_extension(monkeypatch)
    load_quantized("float8", tmp_path, torch.float32)
    assert type(arrive_on_cuda()) is WeightQBytesTensor


def test_another_kind_of_weight_is_refused(transformer: Any) -> None:
    quantize(transformer, "float8")
    check_kernels(transformer)
    layer = transformer.transformer_blocks[0].attn.to_k
    plain = layer.weight
    layer._parameters["weight"] = _Kernel(plain.qtype, 0, plain.size(), plain.stride(), plain._data, plain._scale, None)
    with pytest.raises(ConfigurationError, match=r"a _Kernel of transformer_blocks\.0\.attn\.to_k\.weight"):
        check_kernels(transformer)


class _Kernel(WeightQBytesTensor):
    pass


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


# -- snapshots -------------------------------------------------------------------------------------------------------


@DTYPES
def test_a_snapshot_is_the_same_transformer(tiny_fill: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    transformer = read(tiny_fill, dtype)
    quantize(transformer, "float8")
    folder = save_quantized(transformer, "float8", tmp_path)
    assert folder == tmp_path / "transformer-float8"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert all(path.stat().st_mode & 0o004 for path in folder.iterdir())  # another user's process reads it
    loaded = load_quantized("float8", tmp_path, dtype)
    assert loaded is not None
    before, after = transformer.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype is after[name].dtype
        assert torch.equal(bits(tensor), bits(after[name])), name
    check_kernels(loaded)
    assert loaded.dtype is dtype
    assert not loaded.training
    torch.testing.assert_close(run(loaded), run(transformer))


def test_a_snapshot_takes_half_of_what_was_read(tiny_fill: Path, tmp_path: Path) -> None:
    transformer = read(tiny_fill, torch.bfloat16)
    quantize(transformer, "float8")
    folder = save_quantized(transformer, "float8", tmp_path)
    whole = sum(parameter.numel() * 2 for parameter in read(tiny_fill, torch.bfloat16).parameters())
    assert (folder / WEIGHTS).stat().st_size < 0.65 * whole  # the embedders are a large share of so small a model


def test_without_a_snapshot_there_is_none(tiny_fill: Path, tmp_path: Path) -> None:
    assert load_quantized("float8", tmp_path, torch.float32) is None
    (tmp_path / "transformer-none").mkdir()
    assert load_quantized("none", tmp_path, torch.float32) is None


def test_a_snapshot_in_another_dtype_is_left_alone_and_said_so(
    transformer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quantize(transformer, "float8")
    save_quantized(transformer, "float8", tmp_path)
    assert load_quantized("float8", tmp_path, torch.bfloat16) is None
    assert "computes in torch.float32, not in torch.bfloat16: quantizing anew" in caplog.text


def test_what_cannot_be_kept_is_refused(transformer: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'none' has no snapshots; float8 has"):
        save_quantized(transformer, "none", tmp_path)
    with pytest.raises(ConfigurationError, match="not quantized to float8"):
        save_quantized(transformer, "float8", tmp_path)
    quantize(transformer, "float8")
    (tmp_path / "transformer-float8").mkdir()
    with pytest.raises(ConfigurationError, match="exists already; remove it first"):
        save_quantized(transformer, "float8", tmp_path)


def test_a_disk_that_takes_nothing_is_transient(transformer: Any, tmp_path: Path) -> None:
    quantize(transformer, "float8")
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsUnavailable, match="cannot be written"):
        save_quantized(transformer, "float8", tmp_path / "file" / "checkpoint")


DATA = "transformer_blocks.0.attn.to_q.weight._data"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (DATA, lambda _: None),
        (DATA, lambda tensor: tensor[:1].clone()),
        (DATA, lambda tensor: tensor.float()),
        ("transformer_blocks.0.attn.to_q.weight._scale", lambda _: None),
        ("transformer_blocks.0.attn.to_q.bias", lambda _: None),
        ("x_embedder.bias", lambda _: None),
        ("somebody.elses", lambda _: torch.zeros(1)),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused_by_name(
    transformer: Any, tmp_path: Path, name: str, change: Any
) -> None:
    quantize(transformer, "float8")
    path = save_quantized(transformer, "float8", tmp_path) / WEIGHTS
    state = load_file(path)
    tensor = change(state.pop(name, None))
    save_file(state if tensor is None else state | {name: tensor}, path)
    with pytest.raises(ConfigurationError, match=f"1 tensors are .*, {name} first; make it again"):
        load_quantized("float8", tmp_path, torch.float32)


def test_a_cut_snapshot_is_refused(transformer: Any, tmp_path: Path) -> None:
    quantize(transformer, "float8")
    path = save_quantized(transformer, "float8", tmp_path) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigurationError, match=r"transformer-float8/.*safetensors is damaged"):
        load_quantized("float8", tmp_path, torch.float32)


def test_weights_that_are_no_snapshot_are_refused(transformer: Any, tmp_path: Path) -> None:
    transformer.save_pretrained(tmp_path / "transformer-float8")
    with pytest.raises(ConfigurationError, match="is no float8 snapshot"):
        load_quantized("float8", tmp_path, torch.float32)


def test_a_snapshot_whose_files_are_gone_may_come_back(tmp_path: Path) -> None:
    (tmp_path / "transformer-float8").mkdir()
    with pytest.raises(OSError, match="No such file"):
        load_quantized("float8", tmp_path, torch.float32)
