"""A node is told to go, as Kubernetes does it: SIGTERM to its `ray start --block`, in the middle of edits.

Two nodes on this machine, each with an L4 that is not there, ENV=gcp on Google's emulators; the second has one of the
two Editors and one of the two FLUX replicas. Sessions are published twice: first nobody disturbs them (`calm_s`), then
the second node gets its signal while it works, with so little time to drain that a long photo does not end on it.

- `node_editors`, `node_engines`: replicas on that node when the signal came; `gone_s`: from the signal to its end;
- `released`, `lapsed`: jobs that were begun again, given back by their Editor or after its lease had run out;
- `pushes_again`, `pushes_failed`: pushes answered 503, and those answered otherwise or cut off, all delivered again;
- `completed`, `double_effects`, `lost`, `stuck`: as in `chaos_gcp`, of the sessions of the second time;
- `loss_over_calm`: time from publishing to the last end, over that of the first time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.answers import PUSH
from bench.chaos_gcp import prepare
from bench.effects import Effects
from bench.fake_l4s import FLUX, SIDE, derive_plan, fix_replicas, make_environment
from bench.offered_load import Load
from bench.photos import detailed_photo, whole_mask
from bench.ray_cluster import LOOPBACK, Node, RayCluster, Replica, list_tree
from pawfect.client import Client
from pawfect.emulators import Emulators
from pawfect.service_process import find_free_port
from pawfect.sessions import GoogleBackend
from serve_app.google_clients import make_clients
from serve_app.settings import Settings

PROJECT = "chaos"
SESSIONS = 12
LONG_EVERY = 4
STEPS, LONG_STEPS = 20, 150
"""Some seconds of one core, and half a minute."""
IN_ENGINES = 5
"""More photos than one engine has places for."""
DRAIN_S = 15.0
LEASE_S = 10.0
CPUS = 16
PATIENCE_S = 420.0
EFFECTS_S = 3.0
"""After the last acknowledgement, in which a second effect would show."""
DOUBLED = ("Ingress", "Editor", FLUX)
AT_LEAST = {"completed": SESSIONS, "node_editors": 1, "node_engines": 1, "begun_again": 1}
AT_MOST = {"double_effects": 0, "lost": 0, "stuck": 0}


class Loss:
    def __init__(self, cluster: RayCluster, client: Client, backend: GoogleBackend, settings: Settings) -> None:
        self._cluster, self._client, self._backend, self._settings = cluster, client, backend, settings
        self._effects = Effects(backend)

    async def run(self, node: Node) -> dict[str, float]:
        watching = asyncio.create_task(self._effects.watch())
        await self._edit("warm", 4)  # the prompt is encoded, the models are loaded
        calm_s = await self._edit("calm", SESSIONS)
        start = time.monotonic()
        load = self._offer("loss", SESSIONS)
        await self._await_engines(load)
        here = await self._list_replicas(node)
        gone_s = await _end(node)
        await load.settle(PATIENCE_S)
        loss_s = time.monotonic() - start
        await asyncio.sleep(EFFECTS_S)
        watching.cancel()
        sessions = [asked.session for asked in load.asked]
        jobs = [self._effects.seen[session].job_id for session in sessions if session in self._effects.seen]
        return {
            **{name: float(value) for name, value in (await self._effects.judge(sessions)).items()},
            **await _count_begun_again(self._settings, jobs),
            "pushes_again": float(load.answers.count_again(PUSH)),
            "pushes_failed": float(load.answers.failed),
            "node_editors": float(sum(each.deployment == "Editor" for each in here)),
            "node_engines": float(sum(each.deployment == FLUX for each in here)),
            "gone_s": gone_s,
            "calm_s": calm_s,
            "loss_over_calm": loss_s / calm_s,
        }

    async def _edit(self, prefix: str, sessions: int) -> float:
        """Seconds until all have ended."""
        start = time.monotonic()
        await self._offer(prefix, sessions).settle(PATIENCE_S)
        return time.monotonic() - start

    def _offer(self, prefix: str, sessions: int) -> Load:
        """Pushed by ourselves: the emulator lets two or three be under way at a time."""
        photo, mask = detailed_photo(SIDE, SIDE), whole_mask(SIDE, SIDE)
        load = Load(self._client, self._backend, photo, mask, {"quality": "high"}, prefix)
        for number in range(sessions):
            load.offer_push(steps=LONG_STEPS if number % LONG_EVERY == 0 else STEPS)
        self._effects.watched += [asked.session for asked in load.asked]
        return load

    async def _await_engines(self, load: Load) -> None:
        """Until several photos are in engines, so that some are in each."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                documents = await asyncio.gather(*(self._backend.read(asked.session) for asked in load.asked))
                stages = [((each or {}).get("progress") or {}).get("stage") for each in documents]
                if stages.count("engine") >= IN_ENGINES:
                    return
                await asyncio.sleep(0.2)

    async def _list_replicas(self, node: Node) -> list[Replica]:
        status = await self._cluster.read_status()
        return [each for found in status.values() for each in found.replicas if each.node == node.id]


async def _end(node: Node) -> float:
    """SIGTERM; seconds until its processes have ended."""
    start = time.monotonic()
    tree = list_tree(node.process.pid)
    node.process.send_signal(signal.SIGTERM)
    while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in tree):
        node.process.poll()
        await asyncio.sleep(0.2)
    return time.monotonic() - start


async def _count_begun_again(settings: Settings, job_ids: Iterable[str]) -> dict[str, float]:
    clients = make_clients(settings)
    collection = clients.firestore.collection(settings.google.jobs_collection)
    jobs = [(await collection.document(job_id).get()).to_dict() or {} for job_id in job_ids]
    await clients.close()
    again = [job for job in jobs if job["attempts"] > 1]
    lapsed = sum(job["crashes"] > 0 for job in again)
    return {"begun_again": float(len(again)), "lapsed": float(lapsed), "released": float(len(again) - lapsed)}


def _spread(port: int) -> dict[str, Any]:
    plan = derive_plan(port)
    for name in DOUBLED:
        fix_replicas(plan, name, 2)
    return plan


@asynccontextmanager
async def open_nodes(folder: Path) -> AsyncIterator[tuple[RayCluster, Node, int]]:
    """The service on two nodes, the second of them, and the HTTP port. The emulators' addresses are put into this
    process's own environment."""
    port = find_free_port()
    with Emulators(folder, project=PROJECT) as emulators:
        os.environ.update(emulators.environment())
        await prepare(port)
        environment = {
            **make_environment(folder),
            **emulators.environment(),
            "ENV": "gcp",
            "PAWFECT_JOBS__LEASE_S": f"{LEASE_S:g}",
        }
        async with RayCluster(folder, environment) as cluster:
            await cluster.start_node("head", cpus=CPUS, gpus=1)
            node = await cluster.start_node("second", cpus=CPUS, gpus=1, drain_s=DRAIN_S)
            await cluster.deploy(_spread(port))
            yield cluster, node, port


async def run(folder: Path) -> dict[str, float]:
    settings = Settings(env="gcp", project_id=PROJECT)
    async with open_nodes(folder) as (cluster, node, port), Client(f"http://{LOOPBACK}:{port}") as client:
        backend = GoogleBackend(settings)
        try:
            return await Loss(cluster, client, backend, settings).run(node)
        finally:
            await backend.close()
