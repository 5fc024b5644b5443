"""What ends a delivery."""

from __future__ import annotations


class DeliveryError(Exception):
    """A sentence for whoever delivers. Raised before anything was changed, unless a subclass says otherwise."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RolloutFailed(DeliveryError):
    """The cluster was changed, and what is wanted does not run."""


class Unverified(DeliveryError):
    """The cluster was changed and serves; whether it edits could not be found out, which is no fault of the version."""


class VerificationFailed(DeliveryError):
    """The service answers, but not as the wanted version should."""
