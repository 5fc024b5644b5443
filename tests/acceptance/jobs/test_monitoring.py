"""A real Prometheus watches the running service at work: every panel and every rule has data, nothing fires, and the
number of series does not grow with the number of replicas there have been."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import psutil
import pytest

from monitoring.pages import DASHBOARDS
from pawfect.client import Client
from pawfect.demo import SAMPLE
from pawfect.sessions import Backend
from serve_app.jobs.model import Session
from tests.acceptance.jobs_service import PATIENCE_S, PHOTO, JobsService, finish, submit
from tests.photos import make_mask, make_photo
from tests.prometheus import Prometheus, find_missing
from tests.promql import Rule, fill_in, find_operands, read_rules

pytestmark = [pytest.mark.serve, pytest.mark.weights]

RATE_INTERVAL = "30m"
"""Above the time the test takes."""
MONTH = re.compile(r"\[30d:5m\]")
OFFSET = re.compile(r" offset \d+[mhd]")
GPU_ONLY = "there is no GPU here"
GOOGLE_ONLY = "Google writes it, into Cloud Monitoring"
EXEMPT = {
    "ray_pawfect_gpu_memory_bytes": GPU_ONLY,
    "ray_node_gpus_utilization": GPU_ONLY,
    "ray_node_gram_used": GPU_ONLY,
    "pubsub_googleapis_com:subscription_num_undelivered_messages": GOOGLE_ONLY,
    "pubsub_googleapis_com:subscription_oldest_unacked_message_age": GOOGLE_ONLY,
}
"""Metric → why a query of it has no data in this test. One that does have some must go from here."""
STATED_ZERO = (
    "ALERTS",
    "ray_pawfect_engine_failures_total",
    "ray_pawfect_headshot_reasons_total",
    "ray_serve_num_http_requests_total",
)
"""Metrics without a series until the first event, which their panel shows as 0."""
SELDOM = ("ray_serve_replica_startup_latency_ms_bucket",)
"""Of what may or may not happen while the test watches; a quantile of nothing is no number."""
REPLACED = re.compile(r"ServeReplica:pawfect:(Draft|Ingress)\b")
RESTARTS = 2
SERIES = re.compile(r"^(ray_\w+)\{([^}]*)\}", re.M)
GAUGE = re.compile(r"^# TYPE (ray_pawfect_\w+) gauge$", re.M)
START = re.compile(r',?start="[a-z]+"')
"""A job whose engine was killed under it is a cold one: that value of three may be new after a restart."""
IDENTITY = re.compile(r'\b(replica|WorkerId)="[^"]*",?')
"""What tells one replica's series from another's."""
GONE_S = 4.0
"""Twice what Ray takes to drop a gauge that nobody sets, at the report interval of this service (at least 1 s)."""
SEEN_S = 10.0
"""Twice the Editors' pace: a gauge that they set every 5 s is there and gone in turn at that interval."""


@pytest.fixture(scope="module")
def prometheus(jobs_service: JobsService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """After a minute of every kind of work."""
    if (reason := find_missing()) is not None:
        pytest.skip(reason)
    asyncio.run(work(jobs_service))
    with Prometheus(tmp_path_factory.mktemp("prometheus"), jobs_service.process.metrics_port) as watching:
        for _ in range(2):  # a series that began with the first round has grown with the second
            asyncio.run(work(jobs_service))
        wait_for_counts(watching)
        yield watching


async def work(service: JobsService) -> None:
    """One of each: a session, one that does not exist, every engine over HTTP, and a headshot."""
    backend, name = Backend(service.process.data_dir), f"watched-{time.monotonic_ns()}"
    await backend.create(Session("monitoring", name), make_photo(), make_mask())
    fill = {"init_image": PHOTO, "mask_image": make_mask(), "steps": 3}
    async with Client(service.process.url) as client:
        pushes = [
            client.push(f"{name}-{session}", {"userId": "monitoring", "sessionId": session})
            for session in (name, f"no-{name}")
        ]
        views = [
            await submit(client, **fill),
            await submit(client, **fill, quality="low"),
            await submit(client, "ImageGeneration", prompt="a dog", width=96, height=64, steps=3),
        ]
        headshot = client.make_headshot((SAMPLE / "pet.jpg").read_bytes())
        answers = await asyncio.gather(*pushes, headshot, *(finish(client, view) for view in views))
    backend.close()
    assert answers[:2] == [204, 204]
    assert answers[2].status_code == 200
    assert [job["status"] for job in answers[3:]] == ["completed"] * 3


def wait_for_counts(watching: Prometheus) -> None:
    """Until what the Editor counted has come through Ray's agent."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not watching.query('pawfect:slo_counted:increase5m{slo="edits"} > 0 and on () ray_node_cpu_utilization'):
        assert time.monotonic() < give_up_at, "no session edit with a warm replica was counted"
        time.sleep(0.5)


PANELS = [
    pytest.param(query.expression, id=f"{dashboard.name}: {panel.title} {query.legend}".strip())
    for dashboard in DASHBOARDS
    for panel in dashboard.panels()
    for query in panel.queries
]
RULES = [pytest.param(rule, id=f"{rule.name} {rule.labels.get('slo', '')}".strip()) for rule in read_rules()]


def is_exempt(expression: str) -> bool:
    return any(metric in expression for metric in EXEMPT)


def shorten(expression: str) -> str:
    """As a dashboard would ask for it, had the month a minute."""
    return MONTH.sub("[1m:1s]", fill_in(expression, __rate_interval=RATE_INTERVAL))


@pytest.mark.parametrize("expression", PANELS)
def test_every_panel_has_data(prometheus: Prometheus, expression: str) -> None:
    """Each of its parts has, so that a stated zero hides nothing."""
    for operand in find_operands(shorten(expression)):
        answer = prometheus.query(operand)
        if not any(metric in operand for metric in (*STATED_ZERO, *SELDOM)):
            assert bool(answer) is not is_exempt(operand), operand


@pytest.mark.parametrize("rule", RULES)
def test_everything_that_a_rule_weighs_has_data(prometheus: Prometheus, rule: Rule) -> None:
    """Of an alert both sides of every comparison, since the whole says nothing while all is well."""
    for operand in find_operands(rule.expression):
        asked = OFFSET.sub("", operand)  # the test does not last that long
        assert bool(prometheus.query(asked)) is not is_exempt(asked), asked


@pytest.mark.parametrize("metric", EXEMPT)
def test_what_is_exempt_is_asked_for(metric: str) -> None:
    asked = [*(query.values[0] for query in PANELS), *(rule.expression for rule in read_rules())]
    assert [expression for expression in asked if metric in expression]


@pytest.mark.parametrize("metric", STATED_ZERO)
def test_what_has_never_happened_is_shown_as_a_zero(prometheus: Prometheus, metric: str) -> None:
    (expression,) = [query.values[0] for query in PANELS if metric in query.values[0]]
    assert "vector(0)" in expression
    assert prometheus.query(shorten(expression))


def test_nothing_fires_and_every_rule_can_be_evaluated(prometheus: Prometheus) -> None:
    assert prometheus.list_firing() == []
    assert prometheus.list_unhealthy_rules() == []
    assert prometheus.count_rules() == len(read_rules())


# -- series, across restarts of replicas -----------------------------------------------------------------------------


async def test_a_restart_brings_no_new_labels_and_takes_the_gauges_away(
    prometheus: Prometheus, jobs_service: JobsService
) -> None:
    """Ray keeps the counters of a process that has ended until its node does, under that process's identity. That is
    all that may be new: of everything else there are as many values as before."""
    before = await read_series(jobs_service)
    for _ in range(RESTARTS):
        await replace_replicas(jobs_service)
        await work(jobs_service)
    async with asyncio.timeout(PATIENCE_S):
        while (after := await read_series(jobs_service)).gauges != before.gauges:
            await asyncio.sleep(0.5)
    assert set(after.shapes) == set(before.shapes)
    for shape, processes in after.shapes.items():
        assert processes <= before.shapes[shape] * (1 + RESTARTS), shape
    assert prometheus.list_firing() == []


@dataclass(frozen=True)
class Series:
    """Of our metrics. A shape is a series without its replica's identity, counted once per replica."""

    shapes: Counter[str]
    gauges: Counter[str]


async def read_series(service: JobsService) -> Series:
    """All that there are for a while, once those that are to go have gone."""
    shapes: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    names: set[str] = set()
    await asyncio.sleep(GONE_S)
    until = time.monotonic() + SEEN_S
    async with httpx.AsyncClient(trust_env=False) as http:
        while time.monotonic() < until:
            text = (await http.get(f"http://127.0.0.1:{service.process.metrics_port}/metrics")).text
            names |= set(GAUGE.findall(text))
            found = [each for each in SERIES.findall(text) if each[0].startswith("ray_pawfect_")]
            seen |= {(name, START.sub("", labels)) for name, labels in found}
            await asyncio.sleep(0.5)
    for name, labels in seen:
        shapes[f"{name}{{{IDENTITY.sub('', labels)}}}"] += 1
    return Series(shapes, Counter(name for name, _ in seen if name in names))


def find_replaced(service: JobsService) -> dict[int, psutil.Process]:
    found = {}
    for process in psutil.Process(service.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if REPLACED.search(" ".join(process.cmdline())):
                found[process.pid] = process
    return found


async def replace_replicas(service: JobsService) -> None:
    """Kill them, and wait for as many others."""
    killed = find_replaced(service)
    for process in killed.values():
        process.kill()
    async with asyncio.timeout(PATIENCE_S), Client(service.process.url) as client:
        while len(set(find_replaced(service)) - set(killed)) < len(killed):
            await asyncio.sleep(0.2)
        while not (await client.ready())[0]:
            await asyncio.sleep(0.2)
