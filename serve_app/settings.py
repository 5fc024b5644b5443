"""Every knob, typed and validated once.

Values come from the environment (`PAWFECT_…`, nested with two underscores: `PAWFECT_JOBS__LEASE_S`) and from `.env`.
The names of the services this one replaces (`ENV`, `PORT`, `PROJECT_ID`, …) are accepted as aliases. The tree is frozen
and travels to the replicas as it is: a replica never reads the environment again.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from serve_app import VERSION_VARIABLE
from serve_app.errors import ConfigurationError
from serve_app.settings_headshots import HeadshotSettings, LinkSettings
from serve_app.settings_sections import (
    DEFAULT_QUALITIES,
    CallerSettings,
    EditingSettings,
    EngineSettings,
    FluxSettings,
    GoogleSettings,
    JobSettings,
    PhotoSettings,
    Quality,
    Section,
    TracingSettings,
)

PREFIX = "PAWFECT_"
DEFAULT_PROMPT = "seamless natural background matching surrounding area, photorealistic, no leash, no rope, no cord"


def _check_origin(text: str) -> str:
    is_site = re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", text)
    if not is_site or re.fullmatch(r"http://.*:80|https://.*:443", text):
        raise ValueError(
            "must be scheme://host[:port] of one site as a browser sends it, in lower case and without a default port"
        )
    return text


Origin = Annotated[str, AfterValidator(_check_origin)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    env: Literal["local", "gcp"] = Field(
        "local",
        validation_alias=AliasChoices("PAWFECT_ENV", "ENV"),
        description="local: SQLite, a folder and loopback; gcp: Firestore, Cloud Storage and Pub/Sub",
    )
    port: int = Field(
        8000, ge=1, le=65535, validation_alias=AliasChoices("PAWFECT_PORT", "PORT"), description="HTTP port"
    )
    metrics_port: int = Field(8080, ge=0, le=65535, description="Prometheus port; 0 = any free one")
    data_dir: Path = Field(Path("data"), description="local: folder of the database and the photos")
    service_name: str = Field(
        "pawfect",
        validation_alias=AliasChoices("PAWFECT_SERVICE_NAME", "SERVICE_NAME"),
        description="name in the logs",
    )
    project_id: str | None = Field(
        None, validation_alias=AliasChoices("PAWFECT_PROJECT_ID", "PROJECT_ID"), description="gcp: project"
    )
    region: str = Field(
        "us-east4", validation_alias=AliasChoices("PAWFECT_REGION", "REGION"), description="gcp: region"
    )
    firebase_credentials: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("PAWFECT_FIREBASE_CREDENTIALS", "FIREBASE_CREDENTIALS"),
        description="gcp: service-account key as base64 JSON; better none, for Workload Identity",
    )
    hf_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("PAWFECT_HF_TOKEN", "HF_TOKEN"),
        description="token sent to the model hub when weights are fetched from it",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="least severe line that is logged"
    )
    prompt: str = Field(DEFAULT_PROMPT, min_length=1, max_length=2000, description="prompt of a job that brings none")
    quality: str = Field("draft", description="quality of a job that asks for auto or nothing; a row of qualities")
    qualities: dict[str, Quality] = Field(
        default_factory=lambda: dict(DEFAULT_QUALITIES),
        description="the quality table, as JSON; rows given here replace the shipped ones",
    )
    allowed_origins: Annotated[tuple[Origin, ...], NoDecode] = Field(
        (),
        validation_alias=AliasChoices("PAWFECT_ALLOWED_ORIGINS", "ALLOWED_ORIGINS"),
        description="web pages that may call this service from a browser, as scheme://host[:port], with commas between",
    )
    editing: EditingSettings = EditingSettings()
    photos: PhotoSettings = PhotoSettings()
    jobs: JobSettings = JobSettings()
    engines: EngineSettings = EngineSettings()
    flux: FluxSettings = FluxSettings()
    google: GoogleSettings = GoogleSettings()
    callers: CallerSettings = CallerSettings()
    headshots: HeadshotSettings = HeadshotSettings()
    links: LinkSettings = LinkSettings()
    tracing: TracingSettings = TracingSettings()

    def without_secrets(self) -> Self:
        """The same for the replicas: what is bound to a deployment is kept in Ray's own store, where no key belongs."""
        return self.model_copy(update={"firebase_credentials": None, "hf_token": None})

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        return [part.strip() for part in given.split(",") if part.strip()] if isinstance(given, str) else given

    @field_validator("qualities", mode="before")
    @classmethod
    def _keep_the_shipped_rows(cls, given: Any) -> Any:
        if isinstance(given, dict) and "auto" in given:
            raise ValueError("a row cannot be called 'auto', which stands for the configured quality")
        return {**DEFAULT_QUALITIES, **given} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _have_the_default_quality(self) -> Self:
        if self.quality not in self.qualities:
            raise ValueError(
                f"PAWFECT_QUALITY: quality '{self.quality}' is not a row of qualities ({', '.join(self.qualities)})"
            )
        return self


def load_settings(**given: Any) -> Settings:
    """Read the environment and `.env`; `given` wins over both.

    Raises ConfigurationError with one sentence per wrong value, each naming the variable and what it accepts.
    """
    try:
        environment = {**dotenv_values(".env"), **os.environ}
        _refuse_unknown_names(environment)
        return Settings(**_add_replaced_names(environment, given))
    except ValidationError as error:
        raise ConfigurationError(" ".join(_describe(detail) for detail in error.errors())) from None
    except SettingsError as error:  # a value that should be JSON and is not
        raise ConfigurationError(f"{error}: {error.__cause__}.") from None


def _add_replaced_names(environment: Mapping[str, str | None], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given`, and what the environment says under a replaced service's name alone; its own names win over those."""
    values = dict(given)
    for section, name, also in _list_replaced_names():
        if (value := environment.get(also)) and f"{PREFIX}{section}__{name}".upper() not in environment:
            inner = values.get(section, {})
            inner = inner.model_dump() if isinstance(inner, Section) else inner
            values[section] = {name: value, **inner}
    return values


def _list_replaced_names() -> Iterator[tuple[str, str, str]]:
    """Section, field and the replaced service's name for it; those of the tree's own fields are aliases."""
    for section, kind in Settings.model_fields.items():
        if isinstance(kind.annotation, type) and issubclass(kind.annotation, Section):
            for name, field in kind.annotation.model_fields.items():
                if also := read_also(field):
                    yield section, name, also


def read_also(field: FieldInfo) -> str:
    """A replaced service's name for a section's field; empty where there is none."""
    extra = field.json_schema_extra
    return str(extra.get("also", "")) if isinstance(extra, dict) else ""


def _describe(detail: Any) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    path = [str(part) for part in detail["loc"]]
    if not path:  # several settings that do not go together; the message names them
        return f"{message}."
    name = path[0].upper() if path[0].startswith(PREFIX) or path[0].isupper() else PREFIX + "__".join(path).upper()
    shown = "" if isinstance(detail.get("input"), dict) else f" (got {detail.get('input')!r})"
    return f"{name}: {message}{shown}."


def _refuse_unknown_names(environment: Mapping[str, str | None]) -> None:
    known = {name for name, *_ in describe_settings()} | {VERSION_VARIABLE}
    for name in environment:
        if name.startswith(PREFIX) and name not in known and not name.startswith(PREFIX + "QUALITIES__"):
            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigurationError(f"{name} is not a setting." + (f" Did you mean {close[0]}?" if close else ""))


def describe_settings() -> list[tuple[str, str, str, str]]:
    """One row per setting: variable, other accepted names (comma-separated), default as in `.env`, description."""
    rows: list[tuple[str, str, str, str]] = []
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for inner, inner_field in field.annotation.model_fields.items():
                variable = f"{PREFIX}{name}__{inner}".upper()
                also = read_also(inner_field)
                rows.append((variable, also, _write(inner_field.default), inner_field.description or ""))
            continue
        aliases = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else []
        others = ", ".join(str(alias) for alias in aliases if not str(alias).startswith(PREFIX))
        default = "" if name in ("qualities", "allowed_origins") else _write(field.default)
        rows.append((f"{PREFIX}{name}".upper(), others, default, field.description or ""))
    return rows


def _write(default: Any) -> str:
    if isinstance(default, tuple | dict):
        return json.dumps(default)
    return "" if default is None else str(default)
