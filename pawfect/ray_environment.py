"""What Ray reads from the environment, once, when it is first imported: the same for `make serve` and for a cluster."""

from __future__ import annotations

import os
import secrets

from serve_app.google_clients import KEY_VARIABLE
from serve_app.settings import Settings

RAY_VARIABLES = {
    # Without it, Ray asks a server of its makers to count the installation.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Lines that look alike are not folded into one with a remark, which would be JSON no more.
    "RAY_DEDUP_LOGS": "0",
    # Serve's own latency histograms, in milliseconds; by default they jump from 10 s to 60 s, and edits lie between.
    "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": (
        "5,10,25,50,100,250,500,1000,2500,5000,10000,20000,30000,45000,60000,90000,120000,180000,300000,600000"
    ),
    # How often Editors tell the scaling policy what waits, in seconds; 10 by default, a third of the wait aimed at.
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
}
"""Variable → value. One that the environment already has stays."""


def prepare_ray(settings: Settings) -> None:
    """Must come before the first import of Ray."""
    # Ray's own ports listen on every interface, and whoever may talk to them may run code. The token lives as long as
    # this process and its children; given explicitly, Ray writes no token file, which would outlive it.
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    for name, value in RAY_VARIABLES.items():
        os.environ.setdefault(name, value)
    if settings.firebase_credentials is not None:  # from .env, say; the replicas look for it in their environment
        os.environ[KEY_VARIABLE] = settings.firebase_credentials.get_secret_value()
    if settings.hf_token is not None:
        os.environ["HF_TOKEN"] = settings.hf_token.get_secret_value()
