"""The table of matting networks against the table of pinned files."""

from __future__ import annotations

import pytest

from serve_app.headshots.matting_models import MODELS
from serve_app.weights import EMBEDDED, MANIFEST


def test_the_four_networks_are_there_under_their_own_names() -> None:
    assert set(MODELS) == {"u2netp", "u2net", "isnet", "birefnet"}
    for name, model in MODELS.items():
        assert name == model.name


@pytest.mark.parametrize("name", MODELS)
def test_a_row_is_complete(name: str) -> None:
    model = MODELS[name]
    assert model.side_px in {320, 1024}
    assert all(0 < value < 1 for value in model.mean)
    assert all(0 < value <= 1 for value in model.std)
    assert model.licence


def test_rows_with_weights_are_pinned_under_the_same_licence() -> None:
    pinned = {model.name: MANIFEST[model.weights] for model in MODELS.values() if model.weights is not None}
    assert set(pinned) == {"u2netp", "u2net"}
    for name, weights in pinned.items():
        assert weights.licence == MODELS[name].licence


def test_the_embedded_default_can_be_used_for_anything() -> None:
    assert "u2netp" in EMBEDDED
    assert MODELS["u2netp"].licence == "Apache-2.0"


def test_the_network_of_copyleft_packages_is_never_fetched() -> None:
    assert "AGPL" in MODELS["isnet"].licence
    assert MODELS["isnet"].weights is None
