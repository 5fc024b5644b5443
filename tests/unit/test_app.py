"""Settings → deployments, without starting Ray."""

from __future__ import annotations

import os
import pickle

import pytest
from pydantic import SecretStr

from serve_app.app import build, compose
from serve_app.errors import ConfigurationError
from serve_app.settings import Settings


def test_no_secret_is_bound_to_a_deployment() -> None:
    settings = Settings(firebase_credentials=SecretStr("key-of-the-house"), hf_token=SecretStr("hf_of-the-house"))
    assert b"of-the-house" in pickle.dumps(settings)
    node = compose(settings)._bound_deployment
    bound = node.init_args
    assert isinstance(bound[0], Settings)
    assert b"of-the-house" not in pickle.dumps(bound[0])
    assert bound[0].port == settings.port


def test_a_wrong_argument_of_the_config_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match="PAWFECT_PORT"):
        build({"port": 0})


def test_no_library_tells_its_makers_of_its_use() -> None:
    assert {os.environ[name] for name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")} == {"1"}
