"""What was measured: on the wire by `python -m bench.cloud_calls`, else as README.md says under "Measured"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Calls:
    """Billed units of one piece of work, or of one hour of an idle replica."""

    reads: float = 0
    writes: float = 0
    class_a: float = 0
    class_b: float = 0
    bytes_in: float = 0
    bytes_out: float = 0
    pubsub_bytes: float = 0

    def plus(self, other: Calls, times: float = 1.0) -> Calls:
        return Calls(*(getattr(self, name) + times * getattr(other, name) for name in self.__slots__))


EDIT = Calls(reads=28.7, writes=6.1, class_a=2, class_b=6, bytes_in=1.54e6, bytes_out=1.22e6, pubsub_bytes=2000)
"""A session's edit as if it ran for no time, of a photo of 1.2 MB; its message is published and pushed once."""
EDIT_SECOND = Calls(reads=8.5, writes=1.75)
"""Each second from the claim to the end, of a job that is alone. About half of the reads are the Editor's look at the
backlog, which jobs that run together share."""
HTTP_JOB = Calls(reads=87.4, writes=5, class_a=3, class_b=7, bytes_in=2.69e6, bytes_out=2.70e6)
"""One of 2 s, for a caller with a history; 48 of the reads are of that."""
HEADSHOT = Calls(reads=65.5, writes=9.25, class_a=2, class_b=3, bytes_in=2.75e6, bytes_out=0.44e6, pubsub_bytes=2100)
"""One of 5.5 s, from a photo of 0.4 MB."""
IDLE_EDITOR = Calls(reads=10_020, pubsub_bytes=120_000)
"""An hour."""
IDLE_INGRESS = Calls(reads=1200)
"""An hour."""

JOB_SHARE_OF_WRITES = 0.5
"""Nearly each change of a session's job is written to two documents, of which the job's is one."""
LEAST_REQUEST_KB = 1.0
"""Pub/Sub counts a push as so much at least."""
SERIES_A_NODE = 900
"""Series that metrics.yaml keeps, of one node with one replica of everything; counted at its metrics port."""
