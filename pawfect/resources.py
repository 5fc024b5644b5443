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
    ack_deadline_s: int = 600,
    min_backoff_s: int = 10,
    max_backoff_s: int = 600,
    max_delivery_attempts: int = 100,
) -> None:
    """Both topics, the push subscription `{topic}-push`, the service's and the replay subscription of the dead letters,
    the bucket. What is there already stays as it is."""
    topic, dead = clients.topic(settings.topic), clients.topic(settings.dead_letter_topic)
    for name in (topic, dead):
        with contextlib.suppress(Conflict):
            clients.publisher.create_topic(request={"name": name})
    for name in (settings.dead_letter_subscription, f"{settings.dead_letter_topic}-replay"):
        _subscribe(clients, name, dead, {"ack_deadline_seconds": 60})
    backoff = {"minimum_backoff": {"seconds": min_backoff_s}, "maximum_backoff": {"seconds": max_backoff_s}}
    push = {
        "push_config": {"push_endpoint": push_endpoint},
        "ack_deadline_seconds": ack_deadline_s,
        "retry_policy": backoff,
        "dead_letter_policy": {"dead_letter_topic": dead, "max_delivery_attempts": max_delivery_attempts},
    }
    _subscribe(clients, f"{settings.topic}-push", topic, push)
    with contextlib.suppress(Conflict):
        clients.storage.create_bucket(clients.bucket)


def _subscribe(clients: GoogleClients, name: str, topic: str, properties: Mapping[str, Any]) -> None:
    with contextlib.suppress(Conflict):
        clients.subscriber.create_subscription(
            request={"name": clients.subscription(name), "topic": topic, **properties}
        )
