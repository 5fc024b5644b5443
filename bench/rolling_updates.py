"""Changes of a running service under steady load, with two replicas of everything that can have them.

`change_*`: the quality table's steps are changed by user_config. `change_failed`: requests that failed from then on;
`change_applied_s`: from the deploy to the first job with the new steps; `change_late`: jobs with the old ones that were
accepted after that; `change_replaced`: replicas that did not live through it.

`update_*`: the code's version changes, so that Serve replaces every replica. `update_failed`: requests that failed, a
broken connection or stream among them; `update_again`: pushes that were answered 503, which Pub/Sub delivers again;
`update_streams_again`: event streams that the service ended early, which go on elsewhere; `update_refused`: other
requests answered 503 with Retry-After; `update_s`: until the last replica was
replaced; `update_left`: replicas that were not; `update_lost`, `update_repeated`: jobs that did not complete, or more
than once; `update_p95_over_before`: latency of what came meanwhile, over that of what came before.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import time
from pathlib import Path
from typing import Any

from bench.answers import PUSH
from bench.fake_l4s import FLUX, FakeL4s, find_deployment, fix_replicas, open_fake_l4s
from bench.offered_load import Phase
from bench.ray_cluster import Deployment
from bench.scaling_judgement import find_latency, judge_jobs

RATE = 1.0
"""Pieces of work a second: some 60 % of what two cores do of them."""
CALM_S = 20.0
"""Of load before and after each change."""
OLD_STEPS, NEW_STEPS = 6, 9
LONG_EVERY = 25
"""Of so many pieces of work one is long: it runs when its replicas are told to stop."""
LONG = {"steps": 150}
PATIENCE_S = 300.0
DOUBLED = ("Ingress", "Editor", "Draft", "Headshots", FLUX)
CALLS = ("submit", "status", "result", "edit")
CONFIGURED = ("Ingress", "Editor")
AT_MOST = {
    "change_failed": 0,
    "change_late": 0,
    "change_replaced": 0,
    "update_failed": 0,
    "update_refused": 0,
    "update_left": 0,
    "update_lost": 0,
    "update_repeated": 0,
}
AT_LEAST = {"change_jobs_after": 1}


def _double(plan: dict[str, Any]) -> None:
    for name in DOUBLED:
        fix_replicas(plan, name, 2)
    set_steps(plan, OLD_STEPS)


def set_steps(plan: dict[str, Any], steps: int) -> None:
    row = {"engine": "flux", "steps": steps, "guidance": 30, "detail": 1.0, "max_megapixels": 1.0}
    for name in CONFIGURED:
        find_deployment(plan, name)["user_config"]["qualities"] = {"high": row}


class Update:
    def __init__(self, l4s: FakeL4s) -> None:
        self._l4s = l4s
        self._numbers = itertools.count()

    def _offer(self) -> None:
        """One kind after the other, now and then a long one."""
        number, load = next(self._numbers), self._l4s.load
        offers = (load.offer_push, load.offer_job, load.offer_edit, load.offer_watched_job)
        offers[number % len(offers)](**(LONG if number % LONG_EVERY == 0 else {}))

    async def run(self) -> dict[str, float]:
        start = time.time()
        offering = asyncio.create_task(self._l4s.load.follow([Phase("load", 3600, RATE)], self._offer))
        try:
            await asyncio.sleep(CALM_S)
            changed = await self._change_user_config()
            updated = await self._replace_code(start)
        finally:
            offering.cancel()
        await asyncio.gather(offering, return_exceptions=True)
        await self._l4s.load.settle(PATIENCE_S)
        ends = {f"update_{name}": value for name, value in judge_jobs(self._l4s.load.asked).items()}
        repeated = float(self._l4s.store.count_repeated())
        return {**changed, **updated, **ends, "update_repeated": repeated}

    async def _change_user_config(self) -> dict[str, float]:
        answers, store = self._l4s.load.answers, self._l4s.store
        before, failed = await self._list_replicas(), answers.failed
        plan = copy.deepcopy(self._l4s.plan)
        set_steps(plan, NEW_STEPS)
        start = time.time()
        await self._l4s.cluster.deploy(plan)
        applied_at = await self._find_new_steps(start)
        await asyncio.sleep(CALM_S)
        steps = [steps for steps in store.read_steps(applied_at) if steps != LONG["steps"]]
        return {
            "change_failed": float(answers.failed - failed),
            "change_applied_s": applied_at - start,
            "change_jobs_after": float(steps.count(NEW_STEPS)),
            "change_late": float(steps.count(OLD_STEPS)),
            "change_replaced": float(len(before - await self._list_replicas())),
        }

    async def _find_new_steps(self, start: float) -> float:
        """When every replica had heard: no job came with the old steps since."""
        async with asyncio.timeout(PATIENCE_S):
            while NEW_STEPS not in self._l4s.store.read_steps(start):
                await asyncio.sleep(0.5)
        return time.time()

    async def _replace_code(self, start: float) -> dict[str, float]:
        load = self._l4s.load
        failed, again = load.answers.failed, load.answers.count_again(PUSH)
        streams = load.answers.count_again("events")
        refused = sum(load.answers.count_again(what) for what in CALLS)
        before = await self._list_replicas()
        plan = copy.deepcopy(self._l4s.plan)
        plan["applications"][0]["runtime_env"] = {"env_vars": {"RELEASE": "2"}}
        begun = time.time()
        await self._l4s.cluster.deploy(plan, wait=False)
        left = await self._watch_replacement(before)
        ended = time.time()
        await asyncio.sleep(CALM_S)
        usual = find_latency(load.asked, (start, begun), 95)
        return {
            "update_s": ended - begun,
            "update_left": float(left),
            "update_failed": float(load.answers.failed - failed),
            "update_again": float(load.answers.count_again(PUSH) - again),
            "update_streams_again": float(load.answers.count_again("events") - streams),
            "update_refused": float(sum(load.answers.count_again(what) for what in CALLS) - refused),
            "update_p95_over_before": find_latency(load.asked, (begun, ended), 95) / usual,
        }

    async def _watch_replacement(self, before: set[str]) -> int:
        """Until none of them is left; how many were when patience ended."""
        give_up_at = time.monotonic() + PATIENCE_S
        while (left := len(before & await self._list_replicas())) and time.monotonic() < give_up_at:
            await asyncio.sleep(1)
        return left

    async def _list_replicas(self) -> set[str]:
        status: dict[str, Deployment] = {}
        while not status:  # Serve shows none for a moment after a deploy
            status = await self._l4s.cluster.read_status()
        return {replica.id for each in status.values() for replica in each.replicas}


async def run(folder: Path) -> dict[str, float]:
    async with open_fake_l4s(folder, _double, {"quality": "high"}) as l4s:
        result = await Update(l4s).run()
        if failures := l4s.load.answers.describe_failures():
            print(f"failed: {failures}", flush=True)
    return result
