"""Who speaks to the service: an API key, or an identity token of Google's (ingress/auth.py takes either)."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from delivery.errors import DeliveryError
from delivery.processes import ask

VARIABLE = "PAWFECT_TOKEN"
"""An API key (pk_…) or an identity token. In the environment, because arguments are seen by everybody on a machine."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def find_token(url: str, audience: str, account: str | None) -> str | None:
    """None for a service on this machine, which asks nobody. `account` is the service account to speak as; by default
    the one that gcloud speaks as already. Raises DeliveryError."""
    if token := os.environ.get(VARIABLE, "").strip():
        return token
    if urlsplit(url).hostname in LOOPBACK:
        return None
    command = ["gcloud", "auth", "print-identity-token", "--quiet", f"--audiences={audience}"]
    if account is not None:
        # Without the e-mail in it, the service cannot tell whether its sender is an allowed caller.
        command += [f"--impersonate-service-account={account}", "--include-email"]
    answer = ask(command)
    if answer.status != 0 or not answer.out.strip():
        raise DeliveryError(
            f"There is nobody to speak to {url} as: {VARIABLE} is not set, and gcloud gives no identity token: "
            f"{answer.reason} Of a person's own account it never does; name a service account with --account."
        )
    return answer.out.strip()
