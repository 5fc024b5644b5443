"""What user_config may change, and what it may not."""

from __future__ import annotations

import pytest

from serve_app.errors import ConfigurationError
from serve_app.settings import Settings
from serve_app.settings_sections import DEFAULT_QUALITIES, FluxSettings
from serve_app.tuning import try_to_tune, tune, tune_model

ROW = {"engine": "flux", "steps": 8, "guidance": 30, "detail": 0.5, "max_megapixels": 0.25}


def test_rows_join_the_table_and_one_of_them_may_be_the_default() -> None:
    tuned = tune(Settings(), {"quality": "turbo", "qualities": {"turbo": ROW, "low": {**ROW, "steps": 4}}})
    assert tuned.quality == "turbo"
    assert (tuned.qualities["turbo"].steps, tuned.qualities["low"].steps) == (8, 4)
    assert tuned.qualities["high"] == DEFAULT_QUALITIES["high"]


@pytest.mark.parametrize("given", [None, {}])
def test_nothing_given_is_the_settings(given: dict[str, object] | None) -> None:
    settings = Settings(prompt="as configured")
    assert tune(settings, given) == settings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"quality": "ultra"}, "'ultra' is not a row of qualities"),
        ({"qualities": {"auto": ROW}}, "'auto'"),
        ({"qualities": {"turbo": {**ROW, "steps": 0}}}, "qualities.turbo.steps"),
        ({"qualtiy": "low"}, "qualtiy"),
        ({"prompt": ""}, "prompt"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        tune(Settings(), given)


def test_a_replica_goes_on_as_it_is_where_it_cannot_be_used(caplog: pytest.LogCaptureFixture) -> None:
    assert try_to_tune(Settings(), {"quality": "ultra"}) is None
    assert "nothing is changed" in caplog.text
    assert try_to_tune(Settings(), {"quality": "low"}) == tune(Settings(), {"quality": "low"})


def test_a_model_gets_another_checkpoint() -> None:
    settings = Settings(flux=FluxSettings(checkpoints={"flux-fill-dev": "old"}))
    assert tune_model(settings, "flux-fill-dev", {"checkpoint": "new"}).flux.checkpoints == {"flux-fill-dev": "new"}
    assert tune_model(settings, "flux-fill-dev", {"checkpoint": None}) == settings
    assert tune_model(settings, "flux-dev", {"checkpoint": "new"}) == settings, "one that does not run here"
    with pytest.raises(ConfigurationError, match="chekpoint"):
        tune_model(settings, "flux-fill-dev", {"chekpoint": "new"})
