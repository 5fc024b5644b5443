"""How far an alpha is from the known one: the measures of the matting literature, over the whole picture.

Rhemann et al., "A Perceptually Motivated Online Benchmark for Image Matting", CVPR 2009.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

GRADIENT_SIGMA = 1.4  # pixels, as in the paper
_REACH = 5  # pixels: three standard deviations and a bit


def absolute(alpha: Field, truth: Field) -> float:
    """SAD: the sum of absolute differences of two alphas [H, W] 0..1, in thousands."""
    return float(cv2.norm(alpha, truth, cv2.NORM_L1)) / 1000


def squared(alpha: Field, truth: Field) -> float:
    """MSE: the mean squared difference, in thousandths."""
    return float(cv2.norm(alpha, truth, cv2.NORM_L2SQR)) / alpha.size * 1000


def gradient(alpha: Field, truth: Field) -> float:
    """The sum of squared differences of the lengths of both gradients, in thousands."""
    return float(cv2.norm(_slope(alpha), _slope(truth), cv2.NORM_L2SQR)) / 1000


def _slope(alpha: Field) -> Field:
    """The gradient's length by first derivatives of a Gaussian, each kernel of unit norm as in the paper's code."""
    places = np.arange(-_REACH, _REACH + 1, dtype=np.float64)
    bell = np.exp(-(places**2) / (2 * GRADIENT_SIGMA**2))
    bell, rise = bell / np.linalg.norm(bell), -places * bell / np.linalg.norm(places * bell)
    across = cv2.sepFilter2D(alpha, cv2.CV_32F, rise, bell, borderType=cv2.BORDER_REPLICATE)
    down = cv2.sepFilter2D(alpha, cv2.CV_32F, bell, rise, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.magnitude(across, down), np.float32)
