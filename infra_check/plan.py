"""What Terraform itself says of `infra/`: it is validated and planned with the providers of `plugin`, offline.

The plan is of an empty project. Everything in it is evaluated by the real Terraform: expressions, conditions, loops,
files that are read, validations of variables.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra_check.schema import load_schema

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300
"""Of one command; each takes 1 to 5 s on an idle machine."""
BACKEND = 'terraform {\n  backend "local" {}\n}\n'
"""Written beside the copy of the configuration: the state's bucket cannot be reached, and nothing is applied."""


class PlanFailed(Exception):
    """Terraform refuses the configuration or the variables; the message is what it says."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`resources` are the planned values by address, such as google_pubsub_subscription.push["sessions"]."""

    resources: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Any]

    def of_type(self, kind: str) -> dict[str, Mapping[str, Any]]:
        return {address: values for address, values in self.resources.items() if address.startswith(f"{kind}.")}


def find_terraform() -> str | None:
    return shutil.which("terraform")


def find_unformatted(infra: Path) -> list[str]:
    """Names of files that `terraform fmt` would change."""
    done = subprocess.run(  # noqa: S603
        [find_terraform() or "terraform", "fmt", "-check", "-recursive", "-list=true"],
        cwd=infra,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.stdout.split()


def make_plan(infra: Path, variables: Mapping[str, Any]) -> Plan:
    """Of the configuration in that folder. Raises PlanFailed."""
    with _prepare(infra) as (folder, environment):
        (folder / "terraform.tfvars.json").write_text(json.dumps(variables))
        _run(folder, environment, "init", "-input=false")
        _run(folder, environment, "plan", "-input=false", "-lock=false", "-refresh=false", "-out=made.tfplan")
        shown = json.loads(_run(folder, environment, "show", "-json", "made.tfplan"))
    planned = shown["planned_values"]
    return Plan(
        resources={
            one["address"]: one["values"] for one in planned["root_module"]["resources"] if one["mode"] == "managed"
        },
        outputs={name: output.get("value") for name, output in planned["outputs"].items()},
    )


@contextmanager
def _prepare(infra: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A copy of the folder, with a mirror that has our providers under the real ones' names."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        folder = top / infra.name
        shutil.copytree(infra, folder, ignore=shutil.ignore_patterns(".terraform*", "*.tfvars", "*.tfstate*"))
        (folder / "backend_override.tf").write_text(BACKEND)
        for path in infra.parent.glob("*.json"):  # the indexes, which are read from beside
            shutil.copy(path, top)
        for provider, version in load_schema().versions.items():
            _write_provider(top / "mirror", provider, version)
        settings = top / "terraform.rc"
        settings.write_text(
            f'provider_installation {{\n  filesystem_mirror {{\n    path = "{top / "mirror"}"\n  }}\n}}\n'
        )
        yield (
            folder,
            {
                **{key: value for key, value in os.environ.items() if not key.startswith("TF_")},
                "TF_CLI_CONFIG_FILE": str(settings),
                "TF_DISABLE_PLUGIN_TLS": "1",
                "TF_IN_AUTOMATION": "1",
                "CHECKPOINT_DISABLE": "1",
                "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
                "GOOGLE_CLOUD_PROJECT": "",
            },
        )


def _write_provider(mirror: Path, provider: str, version: str) -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    folder = mirror / f"registry.terraform.io/hashicorp/{provider}/{version}" / f"{sys.platform}_{machine}"
    folder.mkdir(parents=True)
    path = folder / f"terraform-provider-{provider}_v{version}"
    path.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -m infra_check.plugin {provider}\n")
    path.chmod(0o755)


def _run(folder: Path, environment: Mapping[str, str], *arguments: str) -> str:
    command = [find_terraform() or "terraform", *arguments, *([] if arguments[0] == "show" else ["-no-color"])]
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise PlanFailed(f"terraform {arguments[0]} did not end within {TIMEOUT_S} s.") from None
    if done.returncode:
        raise PlanFailed(done.stderr.strip() or done.stdout.strip())
    return done.stdout
