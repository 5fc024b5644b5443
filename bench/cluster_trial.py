"""What is done to the cluster of pods, and what came of it; see `cluster`."""

from __future__ import annotations

import asyncio
import copy
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bench.kuberay import DASHBOARD_PORT, SERVE_PORT, WAIT_FOR_HEAD
from bench.photos import detailed_photo, whole_mask
from bench.pod_cluster import Cluster
from pawfect.resources import provision
from pawfect.sessions import GoogleBackend
from serve_app.google_clients import make_clients
from serve_app.jobs.model import Session
from serve_app.settings import Settings

SESSIONS = 4
SIDE = 512
LONG = {"quality": "high", "steps": 150}
"""Some twenty seconds of one core: more than a Spot pod has left."""
ROW = {"engine": "flux", "steps": 3, "guidance": 30, "detail": 0.5, "max_megapixels": 0.25}
PATIENCE_S = 240.0
"""For each thing that is waited for; on a quiet machine the longest takes some 30 s."""
POLL_S = 0.25


async def wait_for(what: str, look: Callable[[], Awaitable[bool]], patience_s: float = PATIENCE_S) -> float:
    """Seconds until it is so. Raises TimeoutError that says what is not."""
    began = time.monotonic()
    while not await look():
        if time.monotonic() - began > patience_s:
            raise TimeoutError(f"{what}: not within {patience_s:g} s")
        await asyncio.sleep(POLL_S)
    took = time.monotonic() - began
    print(f"{what}: {took:.1f} s", flush=True)
    return took


class Trial:
    def __init__(self, cluster: Cluster, settings: Settings, config: dict[str, Any]) -> None:
        self._cluster, self._settings, self._config = cluster, settings, config
        self._backend = GoogleBackend(settings)
        self._ready: list[str] = []
        self.figures: dict[str, float] = {}

    async def run(self, steps: Sequence[str]) -> None:
        for step in steps:
            print(f"-- {step}", flush=True)
            await getattr(self, step)()

    async def start(self) -> None:
        began = time.monotonic()
        self._cluster.add("head", "headgroup")
        await wait_for("the head answers", self._answers)
        self._note("health_check_ok", await asyncio.to_thread(self._wait_as_init_container))
        for name, group in (("cpu-0", "cpu"), ("cpu-1", "cpu"), ("spot-0", "l4-spot")):
            self._cluster.add(name, group)
        await self._cluster.apply(self._config)
        await wait_for("the application runs", self._runs)
        await wait_for("every pod is ready", self._is_ready)
        self._note("ready_s", time.monotonic() - began)
        self._ready = sorted(set((await self._cluster.list_replicas("Ingress")).values()))
        self._note("ingress_pods", len(self._ready))
        # The gateway's place is taken by one of the pods that it would choose from.
        endpoint = f"http://{self._cluster.address(self._ready[0])}:{SERVE_PORT}/inpaint"
        await provision_google(self._settings, endpoint)
        self._note("probes_failed", len(await self._cluster.check_health()))
        self._note("metrics_failed", len(await self._cluster.check_metrics()))

    def _wait_as_init_container(self) -> bool:
        environment = self._cluster.pods["head"].init_environment
        return self._cluster.execute("head", WAIT_FOR_HEAD, environment, 60)

    async def _answers(self) -> bool:
        return (
            await self._cluster.get(f"http://{self._cluster.address('head')}:{DASHBOARD_PORT}/api/gcs_healthz")
            is not None
        )

    async def _runs(self) -> bool:
        application = await self._cluster.look()
        if application.get("status") == "DEPLOY_FAILED":
            raise RuntimeError(application["message"])
        return application.get("status") == "RUNNING"

    async def _is_ready(self) -> bool:
        return not await self._cluster.check_health()

    async def edit(self) -> None:
        sessions = [await self._publish(f"edit-{i}") for i in range(SESSIONS)]
        self._note("edit_s", await wait_for("sessions have ended", self._all_ended(sessions)))
        self._note("edited", await self._count_completed(sessions))

    async def tune(self) -> None:
        """Another row of the quality table, in place; see serve_app/tuning.py."""
        before = await self._cluster.list_replicas()
        config = copy.deepcopy(self._config)
        for deployment in config["applications"][0]["deployments"]:
            if deployment["name"] in ("Ingress", "Editor"):
                deployment["user_config"] = {"qualities": {"sketch": ROW}}
        began = time.monotonic()
        await self._cluster.apply(config)
        await wait_for("the changed application runs", self._runs)
        session = await self._publish("tuned", quality="sketch")
        await wait_for("the session of the new row has ended", self._all_ended([session]))
        self._note("tuned_s", time.monotonic() - began)
        self._note("tuned_completed", await self._count_completed([session]))
        self._note("tuned_new_replicas", len((await self._cluster.list_replicas()).keys() - before.keys()))

    async def lose_spot(self) -> None:
        session = await self._publish("spot", **LONG)
        await wait_for("the long session is in the engine", self._is_in_engine(session))
        assert set((await self._cluster.list_replicas("FluxFill")).values()) == {"spot-0"}
        began = time.monotonic()
        self._cluster.add("l4-0", "l4")  # what the autoscaler does when Spot is gone
        self._note("spot_end_s", await asyncio.to_thread(self._cluster.end, "spot-0"))
        print(f"the Spot pod has ended: {self.figures['spot_end_s']:.1f} s", flush=True)
        await wait_for("the long session has ended elsewhere", self._all_ended([session]))
        self._note("spot_elsewhere_s", time.monotonic() - began)
        self._note("spot_failed", 1 - await self._count_completed([session]))
        job = await self._read_job(session)
        self._note("spot_runs", job["attempts"])
        self._note("spot_crashes", job["crashes"])

    async def lose_head(self) -> None:
        before = await self._cluster.list_replicas()
        url = f"http://{self._cluster.address(self._ready[-1])}:{SERVE_PORT}/health"
        asking = asyncio.create_task(self._ask(url))
        await asyncio.sleep(1)
        self._cluster.kill("head")
        session = await self._publish("headless")
        await asyncio.sleep(10)  # what a node that is there needs for another pod
        began = time.monotonic()
        self._cluster.add("head", "headgroup")
        await wait_for("the new head says that the application runs", self._runs)
        self._note("head_running_s", time.monotonic() - began)
        await wait_for("every pod is ready again", self._is_ready)
        await wait_for("the session published meanwhile has ended", self._all_ended([session]))
        later = await self._publish("later")
        await wait_for("a session published afterwards has ended", self._all_ended([later]))
        self._note("head_edited", await self._count_completed([session, later]))
        self._note("head_lost_replicas", len(before.keys() - (await self._cluster.list_replicas()).keys()))
        asking.cancel()

    async def _ask(self, url: str) -> None:
        asked = failed = 0
        answered_at, longest = time.monotonic(), 0.0
        while True:
            asked += 1
            ok = await self._cluster.get(url, timeout_s=2) is not None
            failed += not ok
            longest = max(longest, time.monotonic() - answered_at)
            answered_at = time.monotonic() if ok else answered_at
            for name, value in (("requests", asked), ("failed_requests", failed), ("unanswered_s", longest)):
                self._note(f"head_{name}", value)
            await asyncio.sleep(POLL_S)

    async def _publish(self, name: str, **wish: Any) -> Session:
        session = Session("cluster", name)
        await self._backend.create(session, detailed_photo(SIDE, SIDE), whole_mask(SIDE, SIDE))
        await self._backend.publish_session(session, **wish)
        return session

    def _all_ended(self, sessions: Sequence[Session]) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            documents = [await self._backend.read(session) or {} for session in sessions]
            return all(each.get("processingStatus") in ("completed", "failed") for each in documents)

        return look

    def _is_in_engine(self, session: Session) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            progress = (await self._backend.read(session) or {}).get("progress") or {}
            return progress.get("stage") == "engine"

        return look

    async def _count_completed(self, sessions: Sequence[Session]) -> int:
        documents = [await self._backend.read(session) or {} for session in sessions]
        for each in documents:
            if each.get("processingStatus") != "completed":
                print(each, file=sys.stderr)
        return sum(each.get("processingStatus") == "completed" for each in documents)

    async def _read_job(self, session: Session) -> dict[str, Any]:
        document = await self._backend.read(session) or {}
        clients = make_clients(self._settings)
        snapshot = await clients.firestore.collection("jobs").document(document["jobId"]).get()
        await clients.close()
        return snapshot.to_dict() or {}

    def _note(self, name: str, value: float) -> None:
        self.figures[name] = float(value)


async def provision_google(settings: Settings, endpoint: str) -> None:
    clients = make_clients(settings)
    await asyncio.to_thread(provision, clients, settings.google, endpoint)
    await clients.close()
