"""A matting network on ONNX Runtime: a photo in, a coarse alpha at the network's own size out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from serve_app.errors import ConfigurationError, EngineFailed, OutputInvalid
from serve_app.headshots.matting_models import MattingModel

Rgb = NDArray[np.uint8]
"""[H, W, 3] uint8, sRGB."""
Alpha = NDArray[np.float32]
"""[H, W] float32, 0 background to 1 subject."""

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
REDUCING_GAP = (
    2.0  # a box filter first, down to twice the size: no difference, and at 12 megapixels a third of the time
)


class Matting:
    """One loaded network. Not for concurrent calls; same photo and threads, same alpha."""

    def __init__(self, session: Any, model: MattingModel) -> None:
        self.model = model
        self._session = session
        self._input: str = session.get_inputs()[0].name
        outputs = [output.name for output in session.get_outputs()]
        self._output: str = outputs[-1] if model.output == "sigmoid" else outputs[0]

    def predict(self, image: Rgb) -> Alpha:
        """Coarse alpha [side_px, side_px] of the whole photo, at the network's size and not in the photo's proportions.

        Raises `EngineFailed` when the runtime fails or answers with another size, `OutputInvalid` when its answer has
        values that are no numbers.
        """
        pixels = prepare(image, self.model)
        try:
            result = np.asarray(self._session.run([self._output], {self._input: pixels})[0], np.float32)
        except Exception as error:  # the runtime's exceptions have no common ancestor but this
            raise EngineFailed(f"onnxruntime failed in the matting model {self.model.name}: {error}") from error
        side = self.model.side_px
        if result.size != side * side:
            shape = list(result.shape)
            name = self.model.name
            raise EngineFailed(f"the matting model {name} answered with an array {shape} instead of {side} × {side}")
        return finish(result.reshape(side, side), self.model)


def load_matting(path: Path, model: MattingModel, *, threads: int, cuda: bool = False) -> Matting:
    """The network of a file; `threads` 0 = one per core this process may use.

    Raises `ConfigurationError` when the file is no ONNX model, is not of the row `model`, or when `cuda` is asked for
    and this installation of ONNX Runtime has none.
    """
    if cuda and CUDA not in onnxruntime.get_available_providers():
        available = ", ".join(onnxruntime.get_available_providers())
        raise ConfigurationError(f"matting on CUDA was asked for, but ONNX Runtime offers only {available}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    # A waiting thread that spins takes the core from the jobs around this one and gains little here.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[CUDA, CPU] if cuda else [CPU])
    except Exception as error:  # the runtime's exceptions have no common ancestor but this
        raise ConfigurationError(f"{path} cannot be loaded as an ONNX model: {error}") from error
    if cuda and CUDA not in session.get_providers():  # the runtime falls back without a word to its caller
        raise ConfigurationError("matting on CUDA was asked for, but ONNX Runtime could not start it on this machine")
    _check(path, session, model)
    return Matting(session, model)


def prepare(image: Rgb, model: MattingModel) -> NDArray[np.float32]:
    """The network's input [1, 3, side_px, side_px] float32 of a photo [H, W, 3] uint8 RGB of any size."""
    size = (model.side_px, model.side_px)
    small = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    pixels = np.asarray(small, np.float32)
    pixels /= max(float(pixels.max()), 1.0) if model.input_scale == "max" else 255.0
    pixels -= np.asarray(model.mean, np.float32)
    pixels /= np.asarray(model.std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def finish(result: NDArray[np.float32], model: MattingModel) -> Alpha:
    """Alpha 0..1 of one output map [side_px, side_px]; a flat map has no subject in it and gives zeros.

    Raises `OutputInvalid` when there are values that are no numbers.
    """
    if not np.isfinite(result).all():
        raise OutputInvalid(f"the matting model {model.name} answered with values that are not numbers")
    if model.output == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(0.5 * result)), np.float32)  # as 1 / (1 + exp(-x)), but never overflows
    low, high = float(result.min()), float(result.max())
    if high <= low:
        return np.zeros_like(result)
    return ((result - low) / (high - low)).astype(np.float32)


def _check(path: Path, session: Any, model: MattingModel) -> None:
    inputs = session.get_inputs()
    wanted = [1, 3, model.side_px, model.side_px]
    shape = list(inputs[0].shape)
    fits = len(shape) == 4 and all(not isinstance(n, int) or n == w for n, w in zip(shape, wanted, strict=True))
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not fits:
        found = "; ".join(f"{i.name} {i.type} {list(i.shape)}" for i in inputs)
        raise ConfigurationError(
            f"{path} is not a file for the matting model {model.name}: "
            f"it takes {found}, and {model.name} takes one tensor(float) {wanted}"
        )
