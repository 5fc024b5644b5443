"""The headshots' engine around a network whose answer is known."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from PIL import Image

from serve_app.engines.protocol import Cancelled, Done, Event, Failed, HeadshotRequest, HeadshotResult, Step
from serve_app.engines.protocol import TextToImageRequest as OtherRequest
from serve_app.errors import EngineFailed
from serve_app.headshots.engine import HeadshotEngine
from serve_app.headshots.pipeline import STAGES
from serve_app.metrics import PlainSink
from serve_app.settings_headshots import HeadshotSettings
from serve_app.settings_sections import PhotoSettings
from tests.tokens import HandClock
from tests.unit.headshots.test_pipeline import KnownAlpha, photo

LONG_S = 30.0
SMALL = HeadshotSettings(preview_long_edge=100, print_long_edge=200)
REJECTING = SMALL.model_copy(update={"policy": "reject"})
WAY = [(done, len(STAGES)) for done in range(len(STAGES) + 1)]
VALUES = {"prompt": "", "steps": 1, "guidance": 0.0, "seed": 0}


def encode(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


IMAGE, ALPHA = photo(1)
PHOTO = encode(IMAGE)


class Network(KnownAlpha):
    """`error` is raised instead of an answer; `before` is called first."""

    def __init__(self) -> None:
        super().__init__(ALPHA)
        self.error: Exception | None = None
        self.seen: list[np.ndarray] = []
        self.before = lambda: None

    def predict(self, image: np.ndarray) -> np.ndarray:
        self.before()
        self.seen.append(image)
        if self.error is not None:
            raise self.error
        return super().predict(image)


class Bench:
    def __init__(self, settings: HeadshotSettings = SMALL, photos: PhotoSettings = PhotoSettings()) -> None:
        self.network, self.sink, self.clock = Network(), PlainSink(), HandClock()
        self.engine = HeadshotEngine(self.network, settings, photos, self.sink, clock=self.clock)  # type: ignore[arg-type]
        self.events: list[Event] = []
        self.on_event = lambda event: None

    def run(self, request: HeadshotRequest | OtherRequest | None = None) -> Event:
        ended, self.events = threading.Event(), []

        def emit(event: Event) -> None:
            self.events.append(event)
            self.on_event(event)
            if isinstance(event, Done | Failed | Cancelled):
                ended.set()

        self.engine.submit(request or ask(), emit)
        assert ended.wait(LONG_S), self.events
        return self.events[-1]

    @property
    def way(self) -> list[tuple[int, int]]:
        return [(event.step, event.steps) for event in self.events if isinstance(event, Step)]


def ask(data: bytes = PHOTO, deadline: float | None = None) -> HeadshotRequest:
    return HeadshotRequest(request_id="a", photo=data, deadline_at=deadline, **VALUES)


def test_a_file_in_and_two_files_out() -> None:
    bench = Bench()
    done = bench.run()
    assert isinstance(done, Done)
    result = done.result
    assert isinstance(result, HeadshotResult)
    assert [Image.open(io.BytesIO(file)).size for file in (result.print, result.preview)] == [(160, 200), (80, 100)]
    assert result.quality["reasons"] == ["image_too_small"]
    assert (result.images, result.gpu_seconds) == ((), 0.0)
    assert np.array_equal(bench.network.seen[0], IMAGE)
    assert bench.way == WAY
    assert bench.sink.value("pawfect_headshot_reasons_total", reason="image_too_small") == 1
    for stage in ("decode", *STAGES):
        assert bench.sink.value("pawfect_headshot_stage_seconds_count", stage=stage) == 1
    bench.engine.close()


def test_what_is_no_photo_and_what_is_no_headshot() -> None:
    bench = Bench(photos=PhotoSettings(max_pixels=1_000_000))
    for data in (b"text", b"", PHOTO[:500], b"GIF89a"):
        failed = bench.run(ask(data))
        assert isinstance(failed, Failed)
        assert (failed.code, failed.retryable) == ("photo_unreadable", False)
        assert "The photo" in failed.message
    large = bench.run(ask(encode(np.zeros((1001, 1000, 3), np.uint8))))
    assert isinstance(large, Failed)
    assert large.code == "photo_too_large"
    other = bench.run(OtherRequest(request_id="b", width=64, height=64, **VALUES))
    assert isinstance(other, Failed)
    assert other.code == "engine_rejected"
    assert "text-to-image" in other.message
    assert (bench.network.seen, bench.engine.failures_in_a_row(), bench.engine.busy_seconds()) == ([], 0, 0)
    bench.engine.close()


def test_a_photo_that_is_rejected_says_why_and_is_counted() -> None:
    bench = Bench(REJECTING)
    failed = bench.run()
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("headshot_rejected", False)
    assert failed.details is not None
    assert (failed.details["pass"], failed.details["reasons"]) == (False, ["image_too_small"])
    assert bench.way == WAY[:2]
    assert bench.sink.value("pawfect_headshot_reasons_total", reason="image_too_small") == 1
    bench.engine.close()


@pytest.mark.parametrize("error", [EngineFailed("It is lost."), RuntimeError("lost")])
def test_a_network_that_fails_again_and_again_shows(error: Exception) -> None:
    """Decoding, which comes before, works each time; that must not hide it."""
    bench = Bench()
    bench.network.error = error
    for failures in (1, 2, 3):
        failed = bench.run()
        assert isinstance(failed, Failed)
        assert (failed.code, failed.retryable) == ("engine_failed", True)
        assert bench.engine.failures_in_a_row() == failures
    bench.network.error = None
    assert isinstance(bench.run(), Done)
    assert bench.engine.failures_in_a_row() == 0
    bench.engine.close()


def test_a_defect_after_the_network_is_not_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("defect")

    monkeypatch.setattr("serve_app.headshots.pipeline.estimate_foreground", fail)
    bench = Bench()
    assert isinstance(bench.run(), Failed)
    assert (bench.engine.failures_in_a_row(), bench.engine.busy_seconds()) == (0, 0)
    bench.engine.close()


@pytest.mark.parametrize("at", [0, 1, 4, len(STAGES)])
def test_it_can_be_cancelled_before_each_stage(at: int) -> None:
    bench = Bench()
    bench.on_event = lambda event: bench.engine.cancel("a") if isinstance(event, Step) and event.step == at else None
    assert bench.run() == Cancelled()
    assert bench.way == WAY[: at + 1]
    assert len(bench.network.seen) == (at > 0)
    assert bench.engine.busy_seconds() == 0
    bench.engine.close()


def test_it_comes_too_late_between_two_stages() -> None:
    bench = Bench()

    def wait() -> None:
        bench.clock.time += 10

    bench.network.before = wait
    failed = bench.run(ask(deadline=bench.clock.time + 10))
    assert isinstance(failed, Failed)
    assert failed.code == "deadline_exceeded"
    assert bench.way == WAY[:2]
    bench.engine.close()


def test_a_hang_in_any_piece_shows() -> None:
    """Its health is told by the seconds of the current piece, not of all of them together."""
    bench, seen = Bench(), []

    def look() -> None:
        seen.append(bench.engine.busy_seconds())
        bench.clock.time += 50
        seen.append(bench.engine.busy_seconds())

    bench.network.before = look
    bench.on_event = lambda event: seen.append(bench.engine.busy_seconds())
    assert isinstance(bench.run(), Done)
    assert seen[2:4] == [0, 50], "the queue and the first step come before"
    assert {*seen[:2], *seen[4:]} == {0}
    bench.engine.close()
