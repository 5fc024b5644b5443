"""Scaled by hand, and paused under load: what an operator does with `pawfect scale` and `pawfect pause`.

- `pin_s`, `floor_s`: from the command to the replicas it asks for; `auto_s`: from `--auto` to none;
- `pinned_off`, `floor_off`: samples after that with other than three, or fewer than two, replicas;
- `refused_s`: from the pause to the first push that is answered 503; `late_answers`: later pushes answered otherwise;
- `claimed_while_paused`: jobs that began once the replicas had had `OBEY_S` to hear of the pause;
- `running_when_paused`: jobs that an engine had begun by then; `stopped`: those of them that did not complete;
- `resumed_s`: from `resume` to the first job that runs;
- `refused_pushes`, `refusal_p95_ms`: pushes answered 503 meanwhile, and how soon; `jobs_refused`: 1 when a job over
  HTTP is, with Retry-After;
- `hand_lost`, `hand_repeated`: as in `scaling`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path

from bench.answers import AGAIN, PUSH, Answer
from bench.fake_l4s import FITTING, FLUX, FakeL4s
from bench.offered_load import Asked, Phase
from bench.sampling import Sample, Sampler
from bench.scaling_judgement import NAN, find_percentile, judge_jobs
from bench.scaling_plot import Mark, draw

PATIENCE_S = 120.0
OBEY_S = 5.0
"""Replicas look at the controls every few seconds."""
WHY = ("--why", "benchmark")
HOLD_S = 15.0
"""How long what was asked for is watched."""
CURVE = (Phase("load", 60, 0.8),)
AT_LEAST = {"jobs_refused": 1, "refused_pushes": 1, "running_when_paused": 1}
AT_MOST = {
    "pinned_off": 0,
    "floor_off": 0,
    "refused_s": OBEY_S,
    "late_answers": 0,
    "claimed_while_paused": 0,
    "stopped": 0,
    "hand_lost": 0,
    "hand_repeated": 0,
}


class Hand:
    def __init__(self, l4s: FakeL4s, sampler: Sampler, hold_s: float) -> None:
        self.marks: list[Mark] = []
        self._l4s, self._sampler, self._hold_s = l4s, sampler, hold_s

    async def command(self, *arguments: str) -> None:
        """Run `pawfect …` as an operator does. Raises RuntimeError with what it said when it fails."""
        text = " ".join(each for each in arguments if each not in (FLUX, *WHY))
        print(text, flush=True)
        self.marks.append(Mark(time.time(), text))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pawfect", *arguments, "--data", str(self._l4s.data)),
            env=self._l4s.cluster.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"pawfect {' '.join(arguments)}: {said.decode()}")

    async def pin(self) -> dict[str, float]:
        await self.command("scale", FLUX, "--pin", "3")
        pin_s = await self._sampler.wait_for(lambda sample: sample.running == 3, PATIENCE_S)
        pinned_off = await self._count(lambda sample: sample.running != 3)
        await self.command("scale", FLUX, "--auto")
        return {"pin_s": pin_s, "pinned_off": pinned_off}

    async def floor(self) -> dict[str, float]:
        await self.command("scale", FLUX, "--floor", "2")
        floor_s = await self._sampler.wait_for(lambda sample: sample.running == 2, PATIENCE_S)
        floor_off = await self._count(lambda sample: sample.running < 2)
        await self.command("scale", FLUX, "--auto")
        auto_s = await self._sampler.wait_for(lambda sample: not sample.running, PATIENCE_S)
        return {"floor_s": floor_s, "floor_off": floor_off, "auto_s": auto_s}

    async def _count(self, is_off: Callable[[Sample], bool]) -> float:
        seen = len(self._sampler.samples)
        await asyncio.sleep(self._hold_s)
        return float(sum(is_off(sample) for sample in self._sampler.samples[seen:]))

    async def pause(self, curve: Sequence[Phase]) -> dict[str, float]:
        load, store = self._l4s.load, self._l4s.store
        offering = asyncio.create_task(load.follow(curve))
        await self._sampler.wait_for(lambda sample: bool(store.find_begun() and sample.queue.queued), PATIENCE_S)
        running = await asyncio.to_thread(store.find_begun)
        await self.command("pause", *WHY)
        paused_at = time.time()
        await asyncio.sleep(OBEY_S)
        refused = await self._is_job_refused()
        await self._sampler.wait_for(lambda sample: not sample.queue.running, PATIENCE_S)
        claimed = await self._count(lambda sample: sample.queue.running > 0)
        completed = await asyncio.to_thread(store.find, "completed")
        resumed_at = time.time()
        await self.command("resume")
        resumed_s = await self._sampler.wait_for(lambda sample: sample.queue.running > 0, PATIENCE_S)
        await offering
        await load.settle(PATIENCE_S * 2)
        return {
            **judge_refusals(load.answers.log, paused_at, resumed_at),
            "jobs_refused": float(refused),
            "running_when_paused": float(len(running)),
            "stopped": float(len(running - completed)),
            "claimed_while_paused": claimed,
            "resumed_s": resumed_s,
        }

    async def _is_job_refused(self) -> bool:
        answer = await self._l4s.client.submit_job("ImageGeneration", prompt="a dog")
        return answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE and "retry-after" in answer.headers


def judge_refusals(log: Sequence[Answer], paused_at: float, resumed_at: float) -> dict[str, float]:
    """Of the pushes between a pause and its end."""
    sent = sorted((each for each in log if each.what == PUSH and paused_at <= each.sent_at), key=lambda x: x.sent_at)
    refused = [each for each in sent if each.name == AGAIN and each.answered_at < resumed_at]
    first = refused[0].sent_at if refused else NAN
    late = [each for each in sent if each.sent_at > first and each.sent_at < resumed_at and each.name != AGAIN]
    return {
        "refused_s": first - paused_at,
        "refused_pushes": float(len(refused)),
        "refusal_p95_ms": find_percentile([each.answered_at - each.sent_at for each in refused], 95) * 1000,
        "late_answers": float(len(late)),
    }


async def run(l4s: FakeL4s, plot: Path) -> dict[str, float]:
    before = len(l4s.load.asked)
    async with Sampler(l4s.cluster, l4s.store, FLUX) as sampler:
        hand = Hand(l4s, sampler, HOLD_S)
        figures = {**await hand.pin(), **await hand.floor(), **await hand.pause(CURVE)}
        await asyncio.sleep(HOLD_S)
    asked = l4s.load.asked[before:]
    draw(plot, sampler.samples, asked, hand.marks, FITTING)
    return {**figures, **judge_ends(l4s, asked)}


def judge_ends(l4s: FakeL4s, asked: Sequence[Asked]) -> dict[str, float]:
    ends = {f"hand_{name}": value for name, value in judge_jobs(asked).items()}
    return {**ends, "hand_repeated": float(l4s.store.count_repeated())}
