"""Closed-form matting of the pixels that are in question, and of no others.

Levin, Lischinski, Weiss, "A Closed-Form Solution to Natural Image Matting", PAMI 2008: in every 3 × 3 window alpha is
taken for a linear function of the colour. The Laplacian is pymatting's, made tile by tile, so that its memory goes with
the number of unknown pixels and not with the photo's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from serve_app.headshots.compiled import cf_laplacian
from serve_app.headshots.matting import Alpha

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Indices = NDArray[np.int32]

TILE_PX = 192  # pymatting keeps 400 bytes for every pixel of a tile: 15 MB
REACH_PX = 2  # two pixels share a window if they are no farther apart, along either axis
NEIGHBOURS = (2 * REACH_PX + 1) ** 2
EPSILON = 1e-6  # of colour variance, colours 0..1: a standard deviation of 1/1000, below a photo's noise
TOLERANCE = 1e-4  # of the right-hand side's norm; below it alpha moves by less than 1/255


def solve_alpha(image: NDArray[np.uint8], alpha: Alpha, unknown: Bools, prior_weight: float, iterations: int) -> Alpha:
    """`alpha` [H, W] with the pixels under `unknown` [H, W] solved for, in 0..1; the others as given.

    The unknown pixels' values are where the solver starts, and what `prior_weight` (0 = not at all; the Laplacian's
    diagonal is about 1) holds them to. `iterations` bounds the conjugate gradients.
    """
    count = int(np.count_nonzero(unknown))
    if count == 0:
        return alpha.copy()
    places = np.full(unknown.shape, -1, np.int32)
    places[unknown] = np.arange(count, dtype=np.int32)
    matrix, from_known = _assemble(image, alpha, places, count)
    start = alpha[unknown].astype(np.float64)
    diagonal = matrix.diagonal() + prior_weight
    solved = _conjugate_gradients(matrix, from_known + prior_weight * start, start, diagonal, prior_weight, iterations)
    result = alpha.copy()
    result[unknown] = np.clip(solved, 0, 1)
    return result


def _assemble(
    image: NDArray[np.uint8], alpha: Alpha, places: Indices, count: int
) -> tuple[scipy.sparse.csr_matrix, Floats]:
    """The Laplacian between unknown pixels [count, count], and what the known ones add to the right-hand side."""
    values = np.zeros((count, NEIGHBOURS))
    columns = np.zeros((count, NEIGHBOURS), np.int32)
    from_known = np.zeros(count)
    for inner, outer in _tiles(places):
        here = places[inner]
        rows = here[here >= 0]
        within = places[outer]
        local = np.zeros(within.shape, np.bool_)
        top, left = inner[0].start - outer[0].start, inner[1].start - outer[1].start
        local[top : top + here.shape[0], left : left + here.shape[1]] = here >= 0
        laplacian = cf_laplacian(image[outer] / 255.0, epsilon=EPSILON, is_known=within < 0)
        picked = np.flatnonzero(local)
        weights = laplacian.data.reshape(-1, NEIGHBOURS)[picked]
        neighbours = laplacian.indices.reshape(-1, NEIGHBOURS)[picked]
        targets = within.ravel()[neighbours]
        known = targets < 0
        from_known[rows] = -(weights * np.where(known, alpha[outer].ravel()[neighbours], 0)).sum(1)
        values[rows] = np.where(known, 0, weights)
        columns[rows] = np.where(known, rows[:, None], targets)  # a zero beside the diagonal changes nothing
    ends = np.arange(0, count * NEIGHBOURS + 1, NEIGHBOURS)
    return scipy.sparse.csr_matrix((values.ravel(), columns.ravel(), ends), (count, count)), from_known


def _tiles(places: Indices) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Tiles with unknown pixels in them, each also with the margin that its own rows reach into."""
    height, width = places.shape
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            inner = np.s_[top : min(top + TILE_PX, height), left : min(left + TILE_PX, width)]
            if (places[inner] >= 0).any():
                yield (
                    inner,
                    np.s_[
                        max(top - REACH_PX, 0) : min(top + TILE_PX + REACH_PX, height),
                        max(left - REACH_PX, 0) : min(left + TILE_PX + REACH_PX, width),
                    ],
                )


def _conjugate_gradients(
    matrix: scipy.sparse.csr_matrix, right: Floats, start: Floats, diagonal: Floats, shift: float, iterations: int
) -> Floats:
    """Of (matrix + shift) x = right, preconditioned with the diagonal; as near as `iterations` steps come."""
    inverse = 1 / np.maximum(diagonal, 1e-12)
    x = start.copy()
    residual = right - matrix @ x - shift * x
    enough = TOLERANCE * max(_dot(right, right) ** 0.5, 1e-12)
    z = residual * inverse
    direction = z.copy()
    slope = _dot(residual, z)
    for _ in range(iterations):
        if _dot(residual, residual) ** 0.5 <= enough:
            break
        image = matrix @ direction + shift * direction
        step = slope / _dot(direction, image)
        x += step * direction
        residual -= step * image
        z = residual * inverse
        slope, before = _dot(residual, z), slope
        direction *= slope / before
        direction += z
    return x


def _dot(one: Floats, other: Floats) -> float:
    """Without BLAS, whose waiting threads spin and take the cores from other jobs, and whose sums depend on them."""
    return float(np.einsum("i,i->", one, other))
