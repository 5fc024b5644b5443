"""What the facts read out of a plan, and what the application's settings say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra_check.examples import PROJECT
from infra_check.made_up import PROJECT_NUMBER
from infra_check.plan import Plan
from serve_app.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = Settings.model_construct()
"""The defaults, whatever the environment of the tests says."""
GOOGLE, JOBS, HEADSHOTS = SETTINGS.google, SETTINGS.jobs, SETTINGS.headshots
DAY_S = 86400
AGENT = f"serviceAccount:service-{PROJECT_NUMBER}@gcp-sa-pubsub.iam.gserviceaccount.com"
SERVE = f"serviceAccount:pawfect-serve@{PROJECT}.iam.gserviceaccount.com"


def topic(name: str) -> str:
    return f"projects/{PROJECT}/topics/{name}"


def subscription(name: str) -> str:
    return f"projects/{PROJECT}/subscriptions/{name}"


def read_subscriptions(plan: Plan) -> dict[str, Mapping[str, Any]]:
    return {values["name"]: values for values in plan.of_type("google_pubsub_subscription").values()}


def read_pushes(plan: Plan) -> dict[str, Mapping[str, Any]]:
    return {name: values for name, values in read_subscriptions(plan).items() if values["push_config"]}


def read_environment(plan: Plan) -> dict[str, str]:
    return dict(line.split("=", 1) for line in str(plan.outputs["project_env"]).splitlines())


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def list_grants(plan: Plan, member: str) -> set[tuple[str, str]]:
    """What a member may do: role and on what."""
    targets = ("bucket", "topic", "subscription", "service_account_id", "secret_id", "repository", "project")
    return {
        (values["role"], next(str(values[name]) for name in targets if values.get(name)))
        for address, values in plan.resources.items()
        if "_iam_member." in address and values["member"] == member
    }
