"""The service's settings and Ray's, as containers find them in their environment."""

from __future__ import annotations

import re

from manifests.builds import Build, Document
from manifests.environments import UNKNOWN, load_settings, read_environment
from manifests.pods import list_groups, list_pods
from manifests.problems import Problems, report
from serve_app.errors import ConfigurationError

OURS = "serve_app"
FOREIGN_NAMES = re.compile(
    r"RAY_.*"  # Ray
    r"|(HF|TRANSFORMERS|TORCH|TORCHINDUCTOR|CUDA|PYTORCH|NVIDIA|NUMBA|OMP|OPENBLAS|MKL)_.*"  # what models run on
    r"|GOOGLE_CLOUD_PROJECT|PYTHON[A-Z]+|HOME|TMPDIR|TZ|XDG_CACHE_HOME|LD_PRELOAD|MALLOC_.*|OTEL_.*|GRPC_.*"
)
"""Names that are read by others; any other one that no setting has is taken for a slip of the pen."""
SECRET_NAME = re.compile(
    r"(TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|PRIVATE_KEY|API_KEY|ACCESS_KEY)(_|$)", re.IGNORECASE
)
SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|\bhf_[A-Za-z0-9]{20,}|\bAIza[\w-]{30,}|\bya29\.|\bgh[pousr]_\w{30,}"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.|\"private_key\"|\bsk-[\w-]{20,}"
)


def check_names(build: Build) -> Problems:
    """The settings refuse an unknown PAWFECT_ name by themselves; a misspelt older one they cannot see."""
    from serve_app.settings import PREFIX, describe_settings

    known = {name for row in describe_settings() for name in (row[0], *row[1].split(", "))}
    for document, path, environment in _list_environments(build):
        for name in environment:
            if name not in known and not name.startswith(PREFIX) and not FOREIGN_NAMES.fullmatch(name):
                yield report(document, path, f"{name} is no setting, nor anybody's known to us.")


def check_values(build: Build) -> Problems:
    told: set[str] = set()
    for document, path, environment in _list_environments(build):
        try:
            load_settings(environment)
        except ConfigurationError as error:
            if error.message not in told:  # the same ConfigMap in every container
                told.add(error.message)
                yield report(document, path, error.message)


def check_alike(build: Build) -> Problems:
    """Serve builds the application on whichever node has room, and what it read there goes to all replicas."""
    for service in build.list_kind("RayService"):
        groups = list_groups(service)
        first = _list_settings(build, groups[0].container)
        for group in groups[1:]:
            other = _list_settings(build, group.container)
            for name in sorted(first.keys() | other.keys()):
                if first.get(name) != other.get(name):
                    sentence = f"{name} is {other.get(name)}, and {first.get(name)} on the head."
                    yield report(service, f"{group.container_path}.env", sentence)


def check_ray(build: Build) -> Problems:
    from pawfect.ray_environment import RAY_VARIABLES

    for service in build.list_kind("RayService"):
        for group in list_groups(service):
            environment = read_environment(build, group.container)
            for name, value in RAY_VARIABLES.items():
                if (given := environment.get(name)) != value:
                    sentence = f"{name} is {given or 'not given'}; pawfect/ray_environment.py has {value}."
                    yield report(service, f"{group.container_path}.env", sentence)


def check_store(build: Build) -> Problems:
    """With the local store, each node would have jobs and photos of its own."""
    for service in build.list_kind("RayService"):
        for group in list_groups(service):
            environment = read_environment(build, group.container)
            if environment.get("PAWFECT_ENV", environment.get("ENV")) != "gcp":
                yield report(service, f"{group.container_path}.env", "ENV is not gcp, and there are several nodes.")


def check_secrets(build: Build) -> Problems:
    for document in build.list_kind("Secret"):
        yield report(document, "data", "is in the repository; a Secret is made in the cluster.")
    for document in build.list_kind("ConfigMap"):
        for name, value in (document.get("data") or {}).items():
            if is_secret(name, str(value)):
                yield report(document, f"data.{name}", "looks like a secret; those come from a Secret.")
    for pods in list_pods(build):
        for path, container in pods.list_containers():
            for each in container.get("env") or []:
                if is_secret(each["name"], str(each.get("value", ""))):
                    yield report(pods.document, f"{path}.env", f"{each['name']} looks like a secret.")
            for text in [*(container.get("command") or []), *(container.get("args") or [])]:
                if SECRET_VALUE.search(text):
                    yield report(pods.document, path, "an argument looks like a secret.")


def is_secret(name: str, value: str) -> bool:
    """A known form of token, or text under a secret's name that is no number, switch, path or name of a secret."""
    harmless = r"|\d+(\.\d+)?|true|false|null|/.*|projects/.*/secrets/.*|" + UNKNOWN
    return bool(SECRET_VALUE.search(value)) or bool(
        SECRET_NAME.search(name) and not re.fullmatch(harmless, value, re.IGNORECASE)
    )


def _list_settings(build: Build, container: Document) -> dict[str, str]:
    environment = read_environment(build, container)
    return {name: value for name, value in environment.items() if not name.startswith("RAY_")}


def _list_environments(build: Build) -> list[tuple[Document, str, dict[str, str]]]:
    """Of the containers that run our code: Ray's, and those that have one of our settings."""
    found = []
    for pods in list_pods(build):
        for number, (path, container) in enumerate(pods.list_containers()):
            environment = read_environment(build, container)
            ours = pods.group is not None and number == 0
            if ours or any(name == "ENV" or name.startswith("PAWFECT_") for name in environment):
                found.append((pods.document, f"{path}.env", environment))
    return found
