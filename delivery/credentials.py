"""Who speaks to the service: an API key, or an identity token of Google's (ingress/auth.py takes either)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from delivery.errors import DeliveryError
from delivery.processes import ask

VARIABLE = "PAWFECT_TOKEN"
"""An API key (pk_…) or an identity token. In the environment, because arguments are seen by everybody on a machine."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def name_account(values: Mapping[str, str]) -> str | None:
    """The service account that Terraform lets the service know as a caller; None where no project is known."""
    project = values.get("PROJECT_ID")
    return f"pawfect-deploy@{project}.iam.gserviceaccount.com" if project else None


def find_token(url: str, audience: str, account: str | None) -> str | None:
    """An identity token of `account`, good for an hour, or what PAWFECT_TOKEN holds. None for a service on this
    machine, which asks nobody. Raises DeliveryError.

    Always by impersonation: gcloud gives nobody's own user account a token for an audience.
    """
    if token := os.environ.get(VARIABLE, "").strip():
        return token
    if urlsplit(url).hostname in LOOPBACK:
        return None
    if account is None:
        raise DeliveryError(
            f"There is nobody to speak to {url} as: set {VARIABLE} to an API key, or name a service account with "
            "--account."
        )
    answer = ask([
        "gcloud", "auth", "print-identity-token", "--quiet", f"--audiences={audience}",
        # Without the e-mail in it, the service cannot tell whether its sender is an allowed caller.
        f"--impersonate-service-account={account}", "--include-email",
    ])  # fmt: skip
    if answer.status != 0 or not answer.out.strip():
        raise DeliveryError(
            f"gcloud gives no identity token of {account}, to ask {url} for an edit: whoever gcloud is logged in as "
            "needs roles/iam.serviceAccountTokenCreator on that account (Terraform's variable `deployers`); or set "
            f"{VARIABLE} to an API key. gcloud says: {answer.reason}"
        )
    return answer.out.strip()
