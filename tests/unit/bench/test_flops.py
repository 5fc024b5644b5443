"""The counter against published counts, and against the same architecture worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.flops import transformer_tflop, vae_decode_tflop, vae_encode_tflop

HEADS, HEAD_WIDTH = 24, 128
INNER = HEADS * HEAD_WIDTH
DOUBLE, SINGLE = 19, 38


@pytest.mark.parametrize(
    ("side", "text_tokens", "published"),
    [(1024, 512, 74.4), (1024, 128, 67.1), (768, 512, 41.9), (512, 512, 21.5), (512, 128, 15.8)],
)
def test_a_step_takes_what_is_published(side: int, text_tokens: int, published: float) -> None:
    assert transformer_tflop(side, side, text_tokens) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(("side", "encode", "decode"), [(1024, 4.9, 10.5), (512, 1.1, 2.5)])
def test_the_vae_takes_what_is_published(side: int, encode: float, decode: float) -> None:
    assert vae_encode_tflop(side, side) == pytest.approx(encode, rel=0.02)
    assert vae_decode_tflop(side, side) == pytest.approx(decode, rel=0.02)


@pytest.mark.parametrize(("width", "height", "text_tokens"), [(256, 256, 128), (576, 448, 128), (1024, 768, 512)])
def test_a_step_is_the_sum_of_its_products(width: int, height: int, text_tokens: int) -> None:
    image_tokens = width * height // 256
    assert transformer_tflop(width, height, text_tokens) == pytest.approx(by_hand(image_tokens, text_tokens), rel=1e-12)


@pytest.mark.parametrize("count", [vae_encode_tflop, vae_decode_tflop])
def test_all_of_the_vae_grows_with_the_area_but_its_attention(count: Callable[[int, int], float]) -> None:
    """One head 512 wide over the latent pixels in the middle block, 4 · tokens² · width; the rest is convolutions."""
    extra = 4 * 512 * (64**4 - 4 * 32**4) / 1e12
    assert count(512, 512) - 4 * count(256, 256) == pytest.approx(extra, rel=1e-9)


@pytest.mark.parametrize(("width", "height"), [(1000, 768), (1024, 0), (16, 8)])
def test_sides_that_are_no_multiples_of_16_are_refused(width: int, height: int) -> None:
    for count in (vae_encode_tflop, vae_decode_tflop, lambda w, h: transformer_tflop(w, h, 128)):
        with pytest.raises(ValueError, match="multiples of 16"):
            count(width, height)


def by_hand(image_tokens: int, text_tokens: int) -> float:
    """TFLOP of a step from the architecture alone (Esser et al. 2024; FLUX.1's double and single blocks)."""
    tokens = image_tokens + text_tokens
    # Queries, keys, values and output take 4 d², the MLP 8 d²; single blocks do the same with fewer matrices.
    blocks = (DOUBLE + SINGLE) * 12 * INNER**2 * tokens
    attention = (DOUBLE + SINGLE) * 2 * HEADS * tokens**2 * HEAD_WIDTH
    ends = image_tokens * (384 + 64) * INNER + text_tokens * 4096 * INNER
    # Once per step: timestep, guidance (256 wide) and pooled text (768), each through two layers; and the modulations,
    # of six vectors per stream and double block, three per single block and two at the end.
    conditions = (256 + 256 + 768) * INNER + 3 * INNER**2
    modulations = (DOUBLE * 2 * 6 + SINGLE * 3 + 2) * INNER**2
    return 2 * (blocks + attention + ends + conditions + modulations) / 1e12
