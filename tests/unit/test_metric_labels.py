"""Labels are bounded: whatever callers, stores and engines say, no series begins that is not listed here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from http import HTTPStatus
from pathlib import Path

import torch

from ingress.routes.push import declare_pushes
from serve_app import metrics
from serve_app.clock import SystemClock
from serve_app.deployments.engines import EngineShell
from serve_app.deployments.handles import REPLICA_STATES
from serve_app.deployments.load_failures import LoadFailures
from serve_app.deployments.prompt_encoder import NAME as ENCODER_NAME
from serve_app.engines.draft import DraftEngine
from serve_app.engines.protocol import Done, Failed
from serve_app.engines.starts import Start
from serve_app.errors import EngineFailed, Fault, OutOfMemory, walk_errors
from serve_app.flux.engine import FluxEngine
from serve_app.flux.memory import Memory
from serve_app.flux.prompts import Prompts
from serve_app.flux.stepping import Limits, Work
from serve_app.flux.text import TextEmbedding
from serve_app.headshots.engine import HeadshotEngine
from serve_app.headshots.pipeline import STAGES
from serve_app.headshots.quality import REASONS
from serve_app.jobs.catalog import ENGINES
from serve_app.jobs.controls import ControlsWatch, Hand, Pause
from serve_app.jobs.demand import DemandMeter
from serve_app.jobs.job_metrics import SOURCES, JobMetrics
from serve_app.jobs.model import Job, Lane, Operation, Stage, Status
from serve_app.metrics import PlainSink
from serve_app.settings import Settings
from serve_app.settings_headshots import HeadshotSettings
from serve_app.settings_sections import DEFAULT_QUALITIES, EngineSettings, PhotoSettings
from tests.api import Api, open_api
from tests.flux_fakes import Call, FakeModel, FakePrompts, Listener, make_fill
from tests.unit.headshots.test_engine import ALPHA, PHOTO, ask
from tests.unit.headshots.test_pipeline import KnownAlpha
from tests.unit.jobs.test_job_metrics import make_job

CODES = {kind.code for kind in walk_errors()}
BOUNDS: dict[str, set[str]] = {
    "outcome": {"completed", "failed", "cancelled", "loaded"},
    "quality": {*DEFAULT_QUALITIES, "headshot", "other"},
    "engine": {*ENGINES, "other", ENCODER_NAME},
    "source": {*SOURCES, "memory", "disk", "encoded"},
    "fault": {str(fault) for fault in Fault},
    "promise": set(metrics.PROMISES),
    "start": {str(start) for start in Start},
    "stage": {*(str(stage) for stage in Stage), "decode", *STAGES},
    "result": set(metrics.ATTEMPT_RESULTS),
    "reason": {*CODES, "unknown", *REASONS},
    "kind": {*CODES, "allocated", "peak", "limit", "pin", "floor"},
    "lane": {str(lane) for lane in Lane},
    "deployment": {"Draft", "Editor", "other"},
    "work": {str(work) for work in Work},
    "state": {"waiting", *REPLICA_STATES},
    "status": {str(status.value) for status in HTTPStatus},
}
ODD = "Rex's photo 🐕"
"""What must never become a label."""


def test_every_label_is_bounded() -> None:
    assert {label for metric in metrics.ALL for label in metric.labels} <= set(BOUNDS)


async def test_nothing_makes_a_series_that_is_not_listed(tmp_path: Path) -> None:
    async with open_api(tmp_path) as api:
        sink = api.bench.sink
        JobMetrics(sink, api.bench.settings).declare()
        declare_pushes(sink)
        await _push(api)
        await api.bench.reconciler.sweep()
        await _show_controls_and_demand(api)
    for job in _invent_jobs():
        JobMetrics(sink, Settings()).count(job, ran_here=True)
    await _run_shell(sink)
    _run_flux(sink)
    await asyncio.to_thread(_encode_prompt, sink)
    _make_headshots(sink)
    seen = {}
    for family in sink.registry.collect():
        for sample in family.samples:
            labels = {label: value for label, value in sample.labels.items() if label != "le"}
            seen[family.name] = labels
            assert {label: value for label, value in labels.items() if value not in BOUNDS[label]} == {}, sample
    expected = {metric.name.removesuffix("_total") for metric in metrics.ALL if metric.labels}
    assert expected - set(seen) == set(), "a metric that this test does not drive"


async def _show_controls_and_demand(api: Api) -> None:
    sink, clock, stores = api.bench.sink, SystemClock(), api.bench.stores
    hand = Hand(0.0, ODD, ODD, pin=2)
    await stores.controls.change(lambda controls: controls.with_pause(Pause(0.0, ODD, ODD)).with_hand(ODD, hand))
    await ControlsWatch(stores.controls, clock, sink, ("Draft", "Editor")).refresh()
    meter = DemandMeter(stores.jobs, {"draft": "Draft"}, "draft", {Lane.IMAGES: 6}, 10.0, clock, sink)
    await meter.observe()
    LoadFailures(clock, sink).show(("draft", ENCODER_NAME))
    for state in REPLICA_STATES:
        sink.record(metrics.REPLICAS, 1, deployment="Draft", state=state)


async def _push(api: Api) -> None:
    await api.bench.put_session()
    ids = {"userId": "user", "sessionId": "session"}
    api.engine.script += [[Failed(ODD, ODD, retryable=True)], EngineFailed(ODD)]
    assert (await api.push(ids)).status_code == 204
    api.engine.script.append([Failed(ODD, ODD, retryable=False)])
    assert (await api.push({**ids, "prompt": ODD}, "m2")).status_code == 204
    assert (await api.push({**ids, "quality": ODD}, "m3")).status_code == 204
    assert (await api.push({"userId": ODD}, "m4")).status_code == 204
    assert (await api.http.post("/inpaint", content=ODD.encode())).status_code == 400


def _invent_jobs() -> Iterator[Job]:
    """Such as another version may have left in the store."""
    for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED):
        yield make_job(ODD, status=status, error_code=ODD, stage_seconds={ODD: 1.0})
        yield make_job(status=status, engine=ODD, session=None, owner=ODD)
        yield make_job(ODD, status=status, engine=ODD, session=None, operation=Operation.HEADSHOT)


async def _run_shell(sink: PlainSink) -> None:
    shell = EngineShell("draft", lambda: DraftEngine(lambda image, mask: image), EngineSettings(), sink, gpu_share=0.5)
    async with asyncio.timeout(10):
        while sink.value("pawfect_engine_ready", engine="draft") != 1:
            await asyncio.sleep(0.01)
            await shell.load_state()
    await shell.stop()


def _run_flux(sink: PlainSink) -> None:
    def fail(call: Call) -> None:
        if call.samples[0].seed == 1:
            raise OutOfMemory(ODD)
        if call.samples[0].seed == 2:
            raise RuntimeError(ODD)

    model = FakeModel(hook=fail)
    model.bytes = Memory(1, 2, 3)
    engine = FluxEngine(model, FakePrompts(), Limits(), sink=sink)
    for seed in range(3):
        listener = Listener()
        engine.submit(make_fill(ODD, prompt=ODD, seed=seed), listener)
        listener.last()
    engine.close()


def _encode_prompt(sink: PlainSink) -> None:
    def encode(prompt: str) -> Future[TextEmbedding]:
        future: Future[TextEmbedding] = Future()
        future.set_result(TextEmbedding(torch.zeros(128, 4), torch.zeros(4)))
        return future

    prompts = Prompts(
        ODD, encode, dtype=torch.float32, lengths=(128,), memory_bytes=2**20, folder=None, folder_bytes=1, sink=sink
    )
    for _ in range(2):
        prompts.request(ODD).result(10)
    prompts.close()


def _make_headshots(sink: PlainSink) -> None:
    settings = HeadshotSettings(preview_long_edge=100, print_long_edge=200)
    engine = HeadshotEngine(KnownAlpha(ALPHA), settings, PhotoSettings(), sink)  # type: ignore[arg-type]
    ended = threading.Event()
    engine.submit(ask(PHOTO), lambda event: ended.set() if isinstance(event, Done) else None)
    assert ended.wait(30)
    engine.close()


def test_the_number_of_series_does_not_grow_with_what_comes() -> None:
    sink = PlainSink()
    counting = JobMetrics(sink, Settings())
    sizes = set()
    for number in range(20):
        name = f"job-{number}"
        counting.count(make_job(name, status=Status.FAILED, error_code=name, id=name, engine=name), ran_here=True)
        sizes.add(sum(len(family.samples) for family in sink.registry.collect()))
    assert len(sizes) == 1
