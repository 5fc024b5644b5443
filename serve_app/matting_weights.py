"""The file of the matting model: the pinned one, one on disk, or one that is copied once from a bucket or the hub."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import httpx
import urllib3
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from requests import RequestException

from serve_app.errors import ConfigurationError, WeightsUnavailable
from serve_app.google_clients import find_project, make_storage_client
from serve_app.settings import Settings
from serve_app.weights import HTTP_TIMEOUT, HUB_URL, locate

FOLDER = "matting"
"""Of engines.weights_dir, for files that are not pinned."""
DOWNLOAD_S = 300.0
"""The largest of the models' files has about a gigabyte."""

_VENDOR_ERRORS = (
    GoogleAPIError,
    GoogleAuthError,
    InvalidResponse,
    DataCorruption,
    RequestException,
    urllib3.exceptions.HTTPError,
)


def locate_matting(settings: Settings, pinned: str | None, *, token: str | None = None) -> Path:
    """The file of `headshots.matting_model`, whose name among the pinned weights is `pinned`, None without any.

    What comes from a bucket or the hub is copied on the first call, whole or not at all. Raises WeightsUnavailable,
    and ConfigurationError where the settings name no file.
    """
    headshots, folder = settings.headshots, settings.engines.weights_dir.expanduser()
    given = headshots.matting_path.expanduser() if headshots.matting_path is not None else None
    if headshots.matting_gcs:
        path = given or _choose_path(folder, headshots.matting_gcs)
        return _copy_once(path, headshots.matting_gcs, lambda target: _download_object(settings, target))
    if given is not None:
        if not given.is_file():
            raise ConfigurationError(f"PAWFECT_HEADSHOTS__MATTING_PATH: there is no file {given}.")
        return given
    if headshots.matting_hub:
        path = _choose_path(folder, headshots.matting_hub)
        return _copy_once(path, headshots.matting_hub, lambda target: _download_hub(settings, target, token))
    if pinned is None:
        raise ConfigurationError(
            f"No file of the matting model {headshots.matting_model} is pinned here; name one with "
            "PAWFECT_HEADSHOTS__MATTING_PATH, MATTING_GCS or MATTING_HUB."
        )
    return locate(pinned, folder)


def _choose_path(folder: Path, source: str) -> Path:
    return folder / FOLDER / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}-{source.rpartition('/')[2]}"


def _copy_once(path: Path, source: str, download: Callable[[Path], None]) -> Path:
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the rename stays on one file system and is atomic.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".fetching-")
        os.close(handle)
        try:
            download(Path(name))
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise WeightsUnavailable(f"{source} cannot be kept in {path.parent}: {error}.") from error
    return path


def _download_object(settings: Settings, target: Path) -> None:
    bucket, _, name = settings.headshots.matting_gcs.removeprefix("gs://").partition("/")
    credentials, project = find_project(settings)
    client = make_storage_client(project, credentials)
    try:
        client.bucket(bucket).blob(name).download_to_filename(str(target), timeout=DOWNLOAD_S)
    except _VENDOR_ERRORS as error:
        raise WeightsUnavailable(f"{settings.headshots.matting_gcs} cannot be had: {error}.") from error
    finally:
        client.close()


def _download_hub(settings: Settings, target: Path, token: str | None) -> None:
    place, _, rest = settings.headshots.matting_hub.partition("@")
    revision, _, file = rest.partition("/")
    url = HUB_URL.format(repo=place, revision=revision, file=quote(file))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with (
            httpx.Client(timeout=HTTP_TIMEOUT, follow_redirects=True) as client,
            client.stream("GET", url, headers=headers) as response,
            target.open("wb") as out,
        ):
            response.raise_for_status()
            for chunk in response.iter_bytes():
                out.write(chunk)
    except httpx.HTTPError as error:
        raise WeightsUnavailable(f"{settings.headshots.matting_hub} cannot be had: {error}.") from error
