"""One request between `submit` and its last event."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from serve_app.engines.protocol import Decoding, Emit, Event, Image, Queued, Request, Step
from serve_app.errors import DeadlineExceeded, EngineFailed, PawfectError
from serve_app.flux.admission import SampleSpec
from serve_app.flux.stepping import Work
from serve_app.flux.text import TextEmbedding

log = logging.getLogger(__name__)

REMIND_S = 10.0
"""A request that was overtaken in its middle is told where it stands so often: silence would look like a hang."""


@dataclass(slots=True, eq=False)
class Held:
    """Written by the engine's thread alone, but for `texts`, set once, and `is_cancelled`.

    `texts` are the embeddings to come of the prompt and, with true guidance, of the negative one. `states` has what the
    model keeps of the samples under way and `images` what is decoded, both by the sample's index; `seconds` is the
    time the model worked on them.
    """

    request: Request
    emit: Emit
    specs: tuple[SampleSpec, ...] = ()
    texts: tuple[Future[TextEmbedding], ...] | None = None
    is_cancelled: bool = False
    is_eligible: bool = False
    has_begun: bool = False
    has_ended: bool = False
    states: dict[int, Any] = field(default_factory=dict)
    images: dict[int, Image] = field(default_factory=dict)
    seconds: float = 0.0
    _steps_done: int = 0
    _eta_s: float | None = None
    _news: tuple[int, int | None] | None = None
    _has_stepped: bool = False
    _is_decoding: bool = False
    _told_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def has_text(self) -> bool:
        return self.texts is not None and all(text.done() for text in self.texts)

    def embeddings(self) -> tuple[TextEmbedding, TextEmbedding | None]:
        """Of the prompt and of the negative one. Raises what kept them from being made, as a PawfectError."""
        assert self.texts is not None
        try:
            found = [text.result(timeout=0) for text in self.texts]
        except PawfectError:
            raise
        except BaseException as error:  # CancelledError among them: whoever encodes has gone away
            raise EngineFailed(f"the prompt was not encoded: {type(error).__name__}: {error}") from error
        return found[0], found[1] if len(found) > 1 else None

    def check_deadline(self, now: float) -> None:
        """Raises DeadlineExceeded."""
        if self.request.deadline_at is not None and now >= self.request.deadline_at:
            raise DeadlineExceeded("the job's deadline passed before it was finished; send it again with more time")

    def count_step(self) -> None:
        """One of its samples has made a step."""
        self._steps_done += 1
        self._has_stepped = True

    # -- events ------------------------------------------------------------------------------------------------------

    def tell(self, position: int, eta_s: float | None, now: float) -> None:
        """How the request stands between two ticks, if that is news."""
        self._eta_s = eta_s
        if not self.has_begun:
            news = (position, None if eta_s is None else round(eta_s))
            if news != self._news:
                self._news = news
                self._tell(Queued(position, eta_s))
        elif self._has_stepped:
            self._tell_step(now)
        elif now - self._told_at >= REMIND_S:
            self._remind(now)

    def tell_begun(self, now: float, work: Work) -> None:
        """A tick with a sample of this request is about to begin."""
        if not self.has_begun:
            self.has_begun = True
            self._tell_step(now)
        if work is Work.DECODE and not self._is_decoding and self._steps_done == self._all_steps:
            self._is_decoding = True
            self._remind(now)

    def end(self, event: Event) -> None:
        """Emit the last event, once: `close` and the engine's thread may both come to the end of a request."""
        with self._lock:
            if self.has_ended:
                return
            self.has_ended = True
        self._emit(event)

    @property
    def _all_steps(self) -> int:
        return sum(spec.steps_to_run for spec in self.specs)

    def _remind(self, now: float) -> None:
        if self._is_decoding:
            self._told_at = now
            self._tell(Decoding())
        else:
            self._tell_step(now)

    def _tell_step(self, now: float) -> None:
        """Crops may go through the model one after the other; what is told is their average, which never goes back."""
        self._has_stepped, self._told_at = False, now
        self._tell(Step(self._steps_done // len(self.specs), self.specs[0].steps_to_run, self._eta_s))

    def _tell(self, event: Event) -> None:
        with self._lock:
            has_ended = self.has_ended
        if not has_ended:
            self._emit(event)

    def _emit(self, event: Event) -> None:
        try:
            self.emit(event)
        except Exception:  # somebody else's callback must not end the thread everybody depends on
            log.exception("request %s did not take the event %s", self.request.request_id, type(event).__name__)
