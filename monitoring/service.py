"""The dashboard for everyone: are the promises kept, how long does a photo take, what waits, what went wrong."""

from __future__ import annotations

from monitoring.panels import CHOSEN, Dashboard, Panel, Query, Row, Unit
from monitoring.promises import LATENCY, PROMISES

SUBSCRIPTIONS = 'subscription_id=~"session-processing-push|perkie-headshot-worker"'

WORK = Row(
    "Work",
    (
        Panel(
            "Jobs ended, by outcome and fault",
            Unit.PER_MINUTE,
            (
                Query(
                    f"60 * sum by (outcome, fault) (rate(ray_pawfect_jobs_total{{{CHOSEN}}}[$__rate_interval]))",
                    "{{outcome}}, fault: {{fault}}",
                ),
            ),
            "Failures of the service: dead letters below say the reason. Of the caller: tell the app's people.",
        ),
        Panel(
            "Jobs ended, by source",
            Unit.PER_MINUTE,
            (
                Query(
                    f"60 * sum by (source) (rate(ray_pawfect_jobs_total{{{CHOSEN}}}[$__rate_interval]))", "{{source}}"
                ),
            ),
            "A source at zero that was busy: see whether its subscription, or its caller, is still there.",
        ),
        Panel(
            "Jobs waiting and running",
            Unit.COUNT,
            (
                Query("pawfect:jobs_queued:max", "{{lane}} waiting"),
                Query("pawfect:jobs_running:max", "{{lane}} running"),
            ),
            "Waiting grows, running does not: more replicas (`pawfect scale`); if none comes, see the other dashboard.",
        ),
        Panel(
            "Age of the oldest job",
            Unit.SECONDS,
            (
                Query("pawfect:oldest_queued_seconds:max", "{{lane}} waiting"),
                Query("pawfect:oldest_running_seconds:max", "{{lane}} running"),
            ),
            "A job is failed an hour after it came. Waiting above 20 minutes pages; so scale up before that.",
        ),
        Panel(
            "Job store: 1 while an Editor can read it",
            Unit.COUNT,
            (Query("pawfect:store_reachable:max"),),
            "At 0 nothing is edited and the figures of the queue end. See Google's status page and the Editors' log.",
        ),
        Panel(
            "Pub/Sub: messages not acknowledged",
            Unit.COUNT,
            (
                Query(
                    "max by (subscription_id) "
                    f"(pubsub_googleapis_com:subscription_num_undelivered_messages{{{SUBSCRIPTIONS}}})",
                    "{{subscription_id}}",
                ),
            ),
            "Many here and few jobs waiting: pushes do not come in. See the pushes' answers below.",
        ),
        Panel(
            "Pub/Sub: age of the oldest message not acknowledged",
            Unit.SECONDS,
            (
                Query(
                    "max by (subscription_id) "
                    f"(pubsub_googleapis_com:subscription_oldest_unacked_message_age{{{SUBSCRIPTIONS}}})",
                    "{{subscription_id}}",
                ),
            ),
            "A push is held until its job ends, for 570 s at most. Above that, deliveries are being repeated.",
        ),
    ),
)
WRONG = Row(
    "What went wrong",
    (
        Panel(
            "Runs that did not end a job",
            Unit.COUNT,
            (
                Query(
                    'sum by (result) (increase(ray_pawfect_attempts_total{result!~"completed|failed|cancelled"}'
                    "[$__rate_interval])) or on () vector(0)",
                    "{{result}}",
                ),
            ),
            "crashed, lost: a replica died, see its log. retried: an engine failed. The others need nothing.",
        ),
        Panel(
            "Dead letters, by reason",
            Unit.COUNT,
            (
                Query(
                    "sum by (reason) (increase(ray_pawfect_dead_letters_total[$__rate_interval])) or on () vector(0)",
                    "{{reason}}",
                ),
            ),
            "Once the cause is gone, `python -m pawfect.replay` in a pod lists them and sends back the chosen ones.",
        ),
        Panel(
            "Pushes, by answer",
            Unit.PER_MINUTE,
            (Query("60 * sum by (status) (rate(ray_pawfect_pushes_total[$__rate_interval]))", "{{status}}"),),
            "503: paused, or a job took over 570 s. 401, 403: the subscription's account or audience is wrong.",
        ),
        Panel(
            "HTTP answers with an error",
            Unit.PER_MINUTE,
            (
                Query(
                    '60 * sum by (status_code) (rate(ray_serve_num_http_requests_total{status_code=~"[45].."}'
                    "[$__rate_interval])) or on () vector(0)",
                    "{{status_code}}",
                ),
            ),
            "5xx: the Ingress's log, by route. 429: a caller over its allowance. Other 4xx: the caller's.",
            width=24,
        ),
    ),
)
SERVICE = Dashboard(
    "pawfect-service",
    "Pawfect: service",
    "Are the promises kept, how long does a photo take, what waits, what went wrong.",
    (PROMISES, LATENCY, WORK, WRONG),
)
