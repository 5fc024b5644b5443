"""Every knob: typed, named in its error, and documented from the code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from bench.pages import make_pages
from serve_app.errors import ConfigurationError
from serve_app.settings import DEFAULT_PROMPT, describe_settings, load_settings
from serve_app.settings_sections import DEFAULT_QUALITIES

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # away from a developer's .env
    for name in ("ENV", "PORT", "PROJECT_ID", "REGION", "SERVICE_NAME", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_defaults_are_those_of_the_design() -> None:
    settings = load_settings()
    assert (settings.env, settings.port, settings.quality) == ("local", 8000, "draft")
    assert settings.prompt == DEFAULT_PROMPT
    high = settings.qualities["high"]
    assert (high.engine, high.steps, high.guidance) == ("flux", 28, 30.0)
    assert (settings.jobs.max_crashes, settings.jobs.max_transient, settings.jobs.push_wait_s) == (3, 5, 570)
    assert settings.engines.load_timeout_s == 600
    assert (settings.photos.jpeg_quality, settings.photos.preview_long_edge, settings.photos.preview_quality) == (
        95,
        512,
        85,
    )


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("ENV", "gcp", "env", "gcp"),
        ("PORT", "8123", "port", 8123),
        ("PROJECT_ID", "pets", "project_id", "pets"),
        ("REGION", "europe-west4", "region", "europe-west4"),
        ("SERVICE_NAME", "edits", "service_name", "edits"),
        ("PAWFECT_PORT", "8124", "port", 8124),
    ],
)
def test_replaced_names_are_accepted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, expected: object
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), field) == expected


@pytest.mark.parametrize(
    ("name", "value", "section", "field", "expected"),
    [
        ("GCS_BUCKET_ORIGINAL", "pets-in", "google", "headshot_originals", "pets-in"),
        ("GCS_BUCKET_OUTPUT", "pets-out", "google", "headshot_outputs", "pets-out"),
        ("FIRESTORE_COLLECTION", "shots", "google", "headshots_collection", "shots"),
        ("PUBSUB_TOPIC", "t", "google", "headshot_topic", "t"),
        ("PUBSUB_SUBSCRIPTION", "s", "google", "headshot_subscription", "s"),
        ("UPLOAD_URL_TTL", "60", "links", "upload_ttl_s", 60),
        ("DOWNLOAD_URL_TTL", "61", "links", "download_ttl_s", 61),
        ("PREVIEW_LONG_EDGE", "800", "headshots", "preview_long_edge", 800),
        ("PRINT_LONG_EDGE", "2000", "headshots", "print_long_edge", 2000),
        ("MATTING_MODEL_PATH", "/m.onnx", "headshots", "matting_path", Path("/m.onnx")),
        ("MATTING_MODEL_GCS", "gs://b/m.onnx", "headshots", "matting_gcs", "gs://b/m.onnx"),
        ("ORT_CUDA", "1", "headshots", "cuda", True),
    ],
)
def test_replaced_names_are_accepted_in_sections(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, section: str, field: str, expected: object
) -> None:
    monkeypatch.setenv(name, value)
    settings = load_settings()
    assert getattr(getattr(settings, section), field) == expected


def test_every_line_of_the_example_can_be_uncommented(tmp_path: Path) -> None:
    """All at once, as they are: the same settings as without."""
    example = (ROOT / ".env.example").read_text()
    lines = [line.removeprefix("# ") for line in example.splitlines() if line.startswith("# PAWFECT_")]
    given = [line for line in lines if not line.endswith("=")]
    (tmp_path / ".env").write_text("\n".join(given))
    settings = load_settings()
    (tmp_path / ".env").unlink()
    assert len(given) > 80
    assert settings == load_settings()


def test_a_sections_own_name_wins_over_a_replaced_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREVIEW_LONG_EDGE", "700")
    monkeypatch.setenv("PRINT_LONG_EDGE", "2100")
    monkeypatch.setenv("PAWFECT_HEADSHOTS__PREVIEW_LONG_EDGE", "900")
    headshots = load_settings().headshots
    assert (headshots.preview_long_edge, headshots.print_long_edge) == (900, 2100)


def test_a_wrong_value_under_a_replaced_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRINT_LONG_EDGE", "huge")
    with pytest.raises(ConfigurationError, match=r"PRINT_LONG_EDGE.*'huge'"):
        load_settings()


def test_origins_are_a_list_of_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_ORIGINS", "https://shop.example, http://localhost:3000")
    assert load_settings().allowed_origins == ("https://shop.example", "http://localhost:3000")
    wrongs = ("*", "https://*", "shop.example", "https://shop.example/", "https://Shop.example", "https://a.b:443")
    for wrong in wrongs:
        monkeypatch.setenv("ALLOWED_ORIGINS", wrong)
        with pytest.raises(ConfigurationError, match=r"scheme://host"):
            load_settings()


def test_our_own_name_wins_over_a_replaced_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1111")
    monkeypatch.setenv("PAWFECT_PORT", "2222")
    assert load_settings().port == 2222
    assert load_settings(port=3333).port == 3333


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PAWFECT_PORT", "99999", "PAWFECT_PORT: Input should be less than or equal to 65535 (got '99999')."),
        ("PORT", "http", "PORT: Input should be a valid integer"),
        ("ENV", "prod", "PAWFECT_ENV: Input should be 'local' or 'gcp' (got 'prod')."),
        ("PAWFECT_JOBS__LEASE_S", "0", "PAWFECT_JOBS__LEASE_S: Input should be greater than 0 (got '0')."),
        ("PAWFECT_JOBS__URGENT_SLOTS", "9", "urgent_slots (9) must be smaller than slots (6)"),
        ("PAWFECT_QUALITY", "ultra", "quality 'ultra' is not a row of qualities (draft, low, medium, high)"),
        ("PAWFECT_QUALITIES", '{"draft": {"steps": 0}}', "PAWFECT_QUALITIES__DRAFT__STEPS"),
        ("PAWFECT_QUALITIES", "{", "qualities"),
        ("PAWFECT_QUALITIES", '{"auto": {}}', "a row cannot be called 'auto'"),
        ("PAWFECT_LEASE_S", "3", "PAWFECT_LEASE_S is not a setting. Did you mean PAWFECT_JOBS__LEASE_S?"),
        ("PAWFECT_XYZZY", "3", "PAWFECT_XYZZY is not a setting."),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert words in caught.value.message


def test_a_name_in_the_env_file_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PAWFECT_QUALTY=high\n")
    with pytest.raises(ConfigurationError, match="PAWFECT_QUALTY is not a setting"):
        load_settings()


def test_a_secret_never_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in repr(load_settings())


def test_a_given_quality_row_replaces_its_namesake_only(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"engine": "flux", "steps": 8, "guidance": 30, "detail": 1, "max_megapixels": 1}
    monkeypatch.setenv("PAWFECT_QUALITIES", json.dumps({"high": row, "turbo": row}))
    qualities = load_settings().qualities
    assert qualities["high"].steps == qualities["turbo"].steps == 8
    assert qualities["low"] == DEFAULT_QUALITIES["low"]


def test_settings_travel_to_the_replicas_unchanged() -> None:
    settings = load_settings(port=8125)
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301


def test_the_pages_show_the_settings_as_they_are() -> None:
    for path, text in make_pages().items():
        assert path.read_text() == text, f"{path.name} is stale: run make docs"


def test_every_setting_is_described_and_read_somewhere() -> None:
    source = "".join(
        path.read_text()
        for package in ("serve_app", "ingress", "pawfect")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "settings.py"
    )
    for variable, _, _, description in describe_settings():
        name = variable.removeprefix("PAWFECT_").lower().rpartition("__")[2]
        assert description, variable
        if not description.startswith("gcp:"):
            assert f".{name}" in source, f"{variable} has no effect"


def test_the_version_of_an_image_is_no_unknown_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAWFECT_VERSION", "0123abc")
    load_settings()
