"""One exception tree, split by what the receiver should do about it.

`CallerError` is answered to the caller and nothing is kept. `PermanentError` ends a job at once: running it again would
end the same way. `TransientError` is worth another run. Adapters translate their vendor's exceptions into these at the
place where they meet them; nothing above an adapter catches a vendor's type.

Every class carries a stable `code` (snake_case, safe to switch on), whose `fault` it is, and a message that says what
was wrong and what is accepted, written for the developer of the app that called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, ClassVar


class Fault(StrEnum):
    """Who can mend what went wrong: whoever asked, or whoever runs the service. What is not known to be the caller's
    fault is the service's."""

    NONE = "none"
    CALLER = "caller"
    SERVICE = "service"


class PawfectError(Exception):
    code: ClassVar[str] = "internal"
    fault: ClassVar[Fault] = Fault.SERVICE

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[type[PawfectError], tuple[str]]:
        return type(self), (self.message,)


class ConfigurationError(PawfectError):
    """A setting has a value this service cannot start with."""

    code = "configuration"


# -- the caller's fault: answered, nothing kept --------------------------------------------------------------------


class CallerError(PawfectError):
    code = "bad_request"
    fault = Fault.CALLER


class InvalidRequest(CallerError):
    """A well-formed request whose content is not acceptable; `field` names the part at fault."""

    code = "invalid_request"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field

    def __reduce__(self) -> tuple[type[PawfectError], tuple[str]]:
        return type(self), (self.message, self.field)  # type: ignore[return-value]


class TooLarge(InvalidRequest):
    """A part of the request has more bytes than are accepted; the message says how many are."""

    code = "request_entity_too_large"


class UnsupportedImage(CallerError):
    """A file of a type that is not taken; the message says which are."""

    code = "unsupported_image"


class InvalidEnvelope(CallerError):
    """The body is not a Pub/Sub push envelope at all."""

    code = "invalid_envelope"


class InvalidMessage(CallerError):
    """An envelope whose data no retry can make acceptable; it belongs in the dead letters."""

    code = "invalid_message"


class Unauthenticated(CallerError):
    """Nothing that came with the request proves who sent it."""

    code = "unauthenticated"


class Forbidden(CallerError):
    """It is proved who sent the request, and that one may not."""

    code = "forbidden"


class TooManyRequests(CallerError):
    """The caller has asked for more than it may at a time; `retry_after_s` is a whole number of seconds, at least 1."""

    code = "too_many_requests"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[PawfectError], tuple[str]]:
        return type(self), (self.message, self.retry_after_s)  # type: ignore[return-value]


class NotFound(CallerError):
    code = "not_found"


class Conflict(CallerError):
    """The job is in a status that does not allow what was asked."""

    code = "conflict"


class Gone(CallerError):
    """What was asked for was there once, and will not come back."""

    code = "gone"


# -- permanent: this job can never succeed -------------------------------------------------------------------------


class PermanentError(PawfectError):
    code = "permanent"


class SessionMissing(PermanentError):
    code = "session_missing"
    fault = Fault.CALLER


class ObjectMissing(PermanentError):
    code = "object_missing"
    fault = Fault.CALLER


class ObjectReplaced(PermanentError):
    """The object is not the one the job was asked for."""

    code = "object_replaced"
    fault = Fault.CALLER


class PhotoUnreadable(PermanentError):
    code = "photo_unreadable"
    fault = Fault.CALLER


class PhotoTooLarge(PermanentError):
    code = "photo_too_large"
    fault = Fault.CALLER


class MaskUnreadable(PermanentError):
    code = "mask_unreadable"
    fault = Fault.CALLER


class MaskEmpty(PermanentError):
    code = "mask_empty"
    fault = Fault.CALLER


class QualityUnavailable(PermanentError):
    """The asked quality needs an engine that this installation does not run."""

    code = "quality_unavailable"
    fault = Fault.CALLER


class HeadshotRejected(PermanentError):
    """The photo gives no headshot worth having; `quality` is {pass, metrics, reasons}, for JSON."""

    code = "headshot_rejected"
    fault = Fault.CALLER

    def __init__(self, message: str, quality: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.quality = quality

    def __reduce__(self) -> tuple[type[PawfectError], tuple[str]]:
        return type(self), (self.message, self.quality)  # type: ignore[return-value]


class DeadlineExceeded(PermanentError):
    code = "deadline_exceeded"


class Crashed(PermanentError):
    """Every run of the job ended without a word."""

    code = "crashed"


class EngineRejected(PermanentError):
    """The engine says the request itself cannot be done, which this service should have seen before it asked."""

    code = "engine_rejected"


class RequestRejected(EngineRejected):
    """The engine cannot do what the caller wrote: a prompt that is too long, a strength that leaves no step to do."""

    code = "request_rejected"
    fault = Fault.CALLER


# -- transient: worth another run ----------------------------------------------------------------------------------


class TransientError(PawfectError):
    code = "transient"


class StoreUnavailable(TransientError):
    """A job store or photo store did not answer; an outage, not the job's fault, so it is not counted against it."""

    code = "store_unavailable"


class KeysUnavailable(TransientError):
    """The keys that tokens are verified with cannot be had, so nothing can be said about the token; an outage."""

    code = "keys_unavailable"


class EngineUnavailable(TransientError):
    """No engine could take the request (loading, gone, being replaced); not counted against the job."""

    code = "engine_unavailable"


class WeightsUnavailable(TransientError):
    """A pinned model file is not on disk, or no source gave it whole."""

    code = "weights_unavailable"


class QualityUnknown(TransientError):
    """The job's quality is in no table that this worker knows. A row that has just been configured reaches the workers
    one after the other, so the job is tried again before it is failed."""

    code = "quality_unknown"


class Paused(TransientError):
    """An operator has paused consumption; nothing new is taken until it is resumed."""

    code = "paused"


class EngineFailed(TransientError):
    """The engine took the request and broke; counted against the job."""

    code = "engine_failed"


class OutOfMemory(EngineFailed):
    """The accelerator's memory did not suffice; beside less other work it may."""

    code = "out_of_memory"


class OutputInvalid(EngineFailed):
    """The model gave something that is no picture: values that are not numbers, or one flat colour."""

    code = "output_invalid"


class EngineFull(EngineUnavailable):
    """Every place for a request of this priority is taken; another replica, or a later moment, has one."""

    code = "engine_full"


class StageTimeout(TransientError):
    """A stage of a run took too long; counted against the job."""

    code = "stage_timeout"


class UnexpectedFailure(TransientError):
    """A defect of ours; logged with its traceback, and counted against the job so that it cannot run for ever."""

    code = "unexpected"


class PreconditionFailed(TransientError):
    """Somebody else wrote the object first."""

    code = "precondition_failed"


class LeaseLost(TransientError):
    """Another worker holds this job now; whatever this one did must not be recorded."""

    code = "lease_lost"


# -- codes ---------------------------------------------------------------------------------------------------------


def find_error(code: str | None) -> type[PawfectError] | None:
    """The class with this code; None for a code that no class has."""
    return next((kind for kind in walk_errors() if kind.code == code), None)


def find_fault(code: str | None) -> Fault:
    """Whose fault a failure with this code is; with one that no class has, such as a later version's, the service's."""
    kind = find_error(code)
    return Fault.SERVICE if kind is None else kind.fault


def walk_errors(root: type[PawfectError] = PawfectError) -> Iterator[type[PawfectError]]:
    """`root` and every class below it; a class comes before those made from it."""
    yield root
    for kind in root.__subclasses__():
        yield from walk_errors(kind)
