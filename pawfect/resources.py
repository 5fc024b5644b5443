"""Topics, subscriptions and the bucket, made as Terraform makes them in production; for emulators and tests."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from google.api_core.exceptions import Conflict

from serve_app.google_clients import GoogleClients
from serve_app.settings_sections import GoogleSettings


def provision(
    clients: GoogleClients,
    settings: GoogleSettings,
    push_endpoint: str,
    *,
    headshot_endpoint: str | None = None,
    ack_deadline_s: int = 600,
    min_backoff_s: int = 10,
    max_backoff_s: int = 600,
    max_delivery_attempts: int = 100,
) -> None:
    """The topics, the push subscription `{topic}-push`, that of the headshots where there is an endpoint for them, the
    service's and the replay subscription of the dead letters, the buckets. What is there already stays as it is."""
    topic, dead = clients.topic(settings.topic), clients.topic(settings.dead_letter_topic)
    headshot_topic = clients.topic(settings.headshot_topic)
    for name in (topic, dead, headshot_topic):
        with contextlib.suppress(Conflict):
            clients.publisher.create_topic(request={"name": name})
    for name in (settings.dead_letter_subscription, f"{settings.dead_letter_topic}-replay"):
        _subscribe(clients, name, dead, {"ack_deadline_seconds": 60})
    backoff = {"minimum_backoff": {"seconds": min_backoff_s}, "maximum_backoff": {"seconds": max_backoff_s}}
    push = {
        "ack_deadline_seconds": ack_deadline_s,
        "retry_policy": backoff,
        "dead_letter_policy": {"dead_letter_topic": dead, "max_delivery_attempts": max_delivery_attempts},
    }
    _subscribe(clients, f"{settings.topic}-push", topic, {**push, "push_config": {"push_endpoint": push_endpoint}})
    if headshot_endpoint is not None:
        properties = {**push, "push_config": {"push_endpoint": headshot_endpoint}}
        _subscribe(clients, settings.headshot_subscription, headshot_topic, properties)
    for bucket in filter(None, (clients.bucket, settings.headshot_originals, settings.headshot_outputs)):
        with contextlib.suppress(Conflict):
            clients.storage.create_bucket(bucket)


def _subscribe(clients: GoogleClients, name: str, topic: str, properties: Mapping[str, Any]) -> None:
    with contextlib.suppress(Conflict):
        clients.subscriber.create_subscription(
            request={"name": clients.subscription(name), "topic": topic, **properties}
        )
