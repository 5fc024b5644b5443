"""Topics, subscriptions and pushes are what the application expects."""

from __future__ import annotations

import re
from typing import Any

import yaml

from infra_check.examples import HOSTNAME
from infra_check.plan import Plan
from ingress.routes import push as push_routes
from pawfect.replay import SUBSCRIPTION as REPLAY
from serve_app.settings_headshots import HeadshotSettings
from serve_app.settings_sections import JobSettings
from tests.unit.infra.planned import (
    AGENT,
    DAY_S,
    GOOGLE,
    JOBS,
    ROOT,
    list_grants,
    read_environment,
    read_pushes,
    read_subscriptions,
    seconds,
    subscription,
    topic,
)


def check_topics(plan: Plan) -> None:
    made = {values["name"] for values in plan.of_type("google_pubsub_topic").values()}
    assert made == {GOOGLE.topic, GOOGLE.headshot_topic, GOOGLE.dead_letter_topic}


def check_subscriptions(plan: Plan) -> None:
    made = {name: values["topic"] for name, values in read_subscriptions(plan).items()}
    assert made == {
        f"{GOOGLE.topic}-push": topic(GOOGLE.topic),
        GOOGLE.headshot_subscription: topic(GOOGLE.headshot_topic),
        GOOGLE.dead_letter_subscription: topic(GOOGLE.dead_letter_topic),
        REPLAY: topic(GOOGLE.dead_letter_topic),
    }


def check_endpoints(plan: Plan) -> None:
    """Each push goes to a route that takes pushes."""
    routes = {route.path for route in push_routes.router.routes if "POST" in getattr(route, "methods", ())}
    found = {name: values["push_config"][0]["push_endpoint"] for name, values in read_pushes(plan).items()}
    assert found == {
        f"{GOOGLE.topic}-push": f"https://{HOSTNAME}{push_routes.PATH}",
        GOOGLE.headshot_subscription: f"https://{HOSTNAME}{push_routes.HEADSHOT_PATH}",
    }
    assert {url.removeprefix(f"https://{HOSTNAME}") for url in found.values()} == routes


def check_push_tokens(plan: Plan) -> None:
    """What the service is told to expect is what is sent."""
    told = read_environment(plan)
    assert read_pushes(plan)
    for values in read_pushes(plan).values():
        (token,) = values["push_config"][0]["oidc_token"]
        assert token == {"audience": told["PUSH_AUDIENCE"], "service_account_email": told["PUSH_ACCOUNT"]}


def check_ack_deadline(plan: Plan) -> None:
    """The service answers before Pub/Sub hangs up."""
    assert read_pushes(plan)
    for values in read_pushes(plan).values():
        assert JOBS.push_wait_s + 20 <= values["ack_deadline_seconds"] <= 600


def check_backoff(plan: Plan) -> None:
    for values in read_pushes(plan).values():
        assert values["retry_policy"] == [{"minimum_backoff": "10s", "maximum_backoff": "600s"}]


def check_push_retention(plan: Plan) -> None:
    """A message that comes again finds the record of what was done, however late (`record_ttl_s` promises 7 days)."""
    least = _find_least(JobSettings, "record_ttl_s"), _find_least(HeadshotSettings, "ttl_s")
    for values in read_pushes(plan).values():
        assert 3 * DAY_S <= seconds(values["message_retention_duration"]) <= min(least)


def _find_least(section: type[Any], name: str) -> float:
    return float(next(rule.ge for rule in section.model_fields[name].metadata if hasattr(rule, "ge")))


def check_nothing_expires(plan: Plan) -> None:
    """A subscription without traffic is deleted after 31 days, unless this is said."""
    for values in read_subscriptions(plan).values():
        assert values["expiration_policy"] == [{"ttl": ""}]


def check_dead_letter_policy(plan: Plan) -> None:
    for values in read_pushes(plan).values():
        policy = {"dead_letter_topic": topic(GOOGLE.dead_letter_topic), "max_delivery_attempts": 100}
        assert values["dead_letter_policy"] == [policy]


def check_agent_publishes(plan: Plan) -> None:
    assert ("roles/pubsub.publisher", topic(GOOGLE.dead_letter_topic)) in list_grants(plan, AGENT)


def check_agent_acknowledges(plan: Plan) -> None:
    """Without this one messages are forwarded and delivered again as well."""
    wanted = {("roles/pubsub.subscriber", subscription(name)) for name in read_pushes(plan)}
    assert len(wanted) == 2
    assert wanted <= list_grants(plan, AGENT)


def check_letters_last(plan: Plan) -> None:
    """Letters wait for people as long as Pub/Sub keeps anything: 31 days."""
    assert seconds(read_subscriptions(plan)[REPLAY]["message_retention_duration"]) == 31 * DAY_S


def check_watched_subscriptions(plan: Plan) -> None:
    """The same that the alert in the cluster watches."""
    groups = yaml.safe_load((ROOT / "k8s/alerts/pawfect.rules.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"] if rule.get("alert") == "PawfectPubSubWaits"]
    watched = re.search(r'subscription_id=~"([^"]+)"', rules[0]["expr"])
    assert watched is not None
    (condition,) = plan.resources["google_monitoring_alert_policy.oldest_message"]["conditions"]
    found = re.search(r"one_of\((.*?)\)", condition["condition_threshold"][0]["filter"])
    assert found is not None
    assert set(re.findall(r'"([^"]+)"', found[1])) == set(watched[1].split("|")) == set(read_pushes(plan))
