"""A FLUX engine on the tiny model, and a queue before it that gives it work as the job store would."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.tiny_flux import write_checkpoint
from serve_app.engines.protocol import Cancelled, Crop, Done, Event, Failed, FillRequest, Request
from serve_app.flux.checkpoint import Part, find_checkpoint
from serve_app.flux.engine import FluxEngine
from serve_app.flux.loading import load_parts, load_text_encoder
from serve_app.flux.model import FluxModel, Latents, Model
from serve_app.flux.prompts import Prompts, local_encoder
from serve_app.flux.spec import get_spec
from serve_app.flux.stepping import Limits
from serve_app.metrics import PlainSink

FILL = "flux-fill-dev"
PROMPT = "a dog on grass, no leash"


@dataclass(frozen=True, slots=True)
class Tiny:
    """The tiny model, loaded, with the prompts it needs; several engines may be made of it, one after the other."""

    folder: Path
    model: FluxModel
    prompts: Prompts

    @contextmanager
    def engine(self, limits: Limits, wrap: Callable[[FluxModel], Model[Latents]] | None = None) -> Iterator[FluxEngine]:
        engine = FluxEngine(wrap(self.model) if wrap else self.model, self.prompts, limits, sink=PlainSink())
        try:
            yield engine
        finally:
            engine.close()


@contextmanager
def open_tiny(depth: int = 2) -> Iterator[Tiny]:
    """Everything as a replica has it, on the CPU in float32, from a checkpoint written on the spot. `depth` is that of
    the transformer: more of it makes a step cost more beside the VAE."""
    spec = get_spec(FILL)
    with TemporaryDirectory() as temporary:
        folder = write_checkpoint(Path(temporary), depth=depth)
        checkpoint = find_checkpoint(spec, str(folder), needs=Part.IMAGE, mirror=None, cache=None, token=None)
        parts = load_parts(checkpoint, spec, device="cpu", dtype="float32", quantization="none", memory_share=None)
        encoder = load_text_encoder(checkpoint, spec)
        prompts = Prompts(
            checkpoint.revision,
            local_encoder(encoder),
            dtype=encoder.dtype,
            lengths=encoder.lengths,
            memory_bytes=2**24,
            folder=None,
            folder_bytes=0,
            sink=PlainSink(),
        )
        yield Tiny(folder, FluxModel(parts), prompts)
        prompts.close()


def make_crop(side: int, seed: int = 0) -> Crop:
    """`side` × `side` pixels of noise, a quarter of them masked."""
    image = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side * 3 // 4, side // 4 : side * 3 // 4] = 255
    return Crop(image, mask)


def make_request(name: str, crops: tuple[Crop, ...], steps: int, priority: int = 1, seed: int = 0) -> FillRequest:
    return FillRequest(
        request_id=name,
        crops=crops,
        prompt=PROMPT,
        steps=steps,
        guidance=30.0,
        seed=seed,
        priority=priority,
        submitted_at=time.time(),
    )


@dataclass(slots=True, eq=False)
class Ticket:
    """A request and what came of it; times of the monotonic clock."""

    request: Request
    arrived: float
    ended: float = 0.0
    event: Event | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def latency(self) -> float:
        return self.ended - self.arrived


class Queue:
    """Holds what the engine has no place for, and gives it the most urgent and oldest first."""

    def __init__(self, engine: FluxEngine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits
        self._lock = threading.Lock()
        self._waiting: list[Ticket] = []
        self._inside: list[Ticket] = []

    def offer(self, request: Request) -> Ticket:
        ticket = Ticket(request, time.monotonic())
        with self._lock:
            self._waiting.append(ticket)
        self._dispatch()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        with self._lock:
            was_waiting = ticket in self._waiting
            if was_waiting:
                self._waiting.remove(ticket)
        if was_waiting:
            self._end(ticket, Cancelled())
        else:
            self._engine.cancel(ticket.request.request_id)

    def _dispatch(self) -> None:
        while (ticket := self._take()) is not None:
            self._engine.submit(ticket.request, partial(self._hear, ticket))

    def _take(self) -> Ticket | None:
        limits = self._limits
        with self._lock:
            urgent = sum(ticket.request.priority == 0 for ticket in self._inside)
            has_place = len(self._inside) - min(urgent, limits.urgent_places) < limits.places
            has_urgent_place = len(self._inside) < limits.places + limits.urgent_places
            fitting = [t for t in self._waiting if has_place or (has_urgent_place and t.request.priority == 0)]
            if not fitting:
                return None
            ticket = min(fitting, key=lambda t: (t.request.priority, t.arrived))
            self._waiting.remove(ticket)
            self._inside.append(ticket)
            return ticket

    def _hear(self, ticket: Ticket, event: Event) -> None:
        """The engine has given a place free before it says how a request ended."""
        if isinstance(event, Done | Failed | Cancelled):
            with self._lock:
                self._inside.remove(ticket)
            self._end(ticket, event)
            self._dispatch()

    def _end(self, ticket: Ticket, event: Event) -> None:
        ticket.event, ticket.ended = event, time.monotonic()
        ticket.done.set()
