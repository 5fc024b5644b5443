"""What a run of scaling is judged by: figures that must show a violation where there is one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from bench.answers import AGAIN, OK, PUSH, Answer, Answers, name_answer
from bench.completions import Queue
from bench.offered_load import Load
from bench.report import find_violations
from bench.sampling import Placement, Sample
from bench.scaling_by_hand import judge_refusals
from bench.scaling_judgement import find_spread, judge_replicas
from bench.scrape import count_series, sum_by
from pawfect.client import Client
from pawfect.sessions import Backend

PAGE = """\
# HELP ray_ticks_count of ticks
ray_ticks_count{replica="a",work="decode",note="x\\"}y"} 3
ray_ticks_count{replica="a",work="step"} 40.0
ray_ticks_count{replica="b",work="decode"} 5.0
ray_ticks_count_total{replica="b",work="decode"} 7.0
ray_plain 1
"""


def make_sample(at: float, running: int, *, wanted: int = 4, working: int = 4) -> Sample:
    return Sample(at, wanted, running, 0, 0, Queue(0, working, 0.0))


def place(at: float, gpus: Mapping[str, str], done: Mapping[str, float] | None = None) -> Placement:
    """`gpus` maps each replica to its GPU, of which it has half."""
    return Placement(at, {replica: {gpu: 0.5} for replica, gpu in gpus.items()}, done or {})


EVEN = {"a": "0", "b": "0", "c": "1", "d": "1"}


def test_series_are_added_up_by_a_label_and_others_with_a_like_name_left_out() -> None:
    assert sum_by(PAGE, "ray_ticks_count", "replica", work="decode") == {"a": 3.0, "b": 5.0}
    assert sum_by(PAGE, "ray_plain", "replica") == {"": 1.0}
    assert count_series(PAGE) == 5


def test_replicas_are_judged_by_the_top_and_by_the_fullest_gpu() -> None:
    samples = [make_sample(0, 0), make_sample(1, 4, wanted=8), make_sample(2, 4), make_sample(3, 1)]
    done = dict.fromkeys("abcd", 1.0)
    figures = judge_replicas(samples, [place(1, EVEN, done), place(2, EVEN, {**done, "a": 3, "b": 3, "c": 2})], 4)
    assert figures["wanted_top"] == 8
    assert (figures["replicas_top"], figures["replicas_end"]) == (4, 1)
    assert (figures["gpu_share_max"], figures["gpu_difference_at_top"]) == (1.0, 0)
    assert figures["spread_at_top"] == pytest.approx(2 * 4 / 5)


def test_an_uneven_and_an_overfull_gpu_are_seen() -> None:
    crooked = place(1, {"a": "0", "b": "0", "c": "0", "d": "1"})
    figures = judge_replicas([make_sample(1, 4)], [crooked], 4)
    assert (figures["gpu_share_max"], figures["gpu_difference_at_top"]) == (1.5, 2)


def test_a_top_that_was_not_reached_is_no_number_and_so_holds_to_no_bound() -> None:
    figures = judge_replicas([make_sample(1, 2)], [place(1, {"a": "0", "b": "1"})], 4)
    assert math.isnan(figures["gpu_difference_at_top"])
    assert math.isnan(figures["spread_at_top"])
    assert find_violations(figures, at_most={"spread_at_top": 9})
    assert math.isnan(find_spread([place(1, EVEN), place(2, EVEN)], (0, 3), 4)), "nothing was made"


def test_bounds_hold_for_figures_at_them_and_a_missing_one_violates() -> None:
    assert find_violations({"x": 1.0}, at_least={"x": 1}, at_most={"x": 1}) == []
    assert len(find_violations({"x": 1.0}, at_least={"x": 2, "y": 0}, at_most={"x": 0.5})) == 3


@pytest.mark.parametrize(
    ("what", "answer", "name"),
    [
        (PUSH, 204, OK),
        (PUSH, 503, AGAIN),
        (PUSH, 500, "500"),
        ("submit", httpx.Response(202), OK),
        ("submit", httpx.Response(503), "503"),
        ("submit", httpx.Response(503, headers={"Retry-After": "5"}), AGAIN),
        ("status", httpx.Response(429, headers={"Retry-After": "5"}), "429"),
    ],
)
def test_only_a_push_and_who_is_told_when_may_be_sent_again(what: str, answer: httpx.Response | int, name: str) -> None:
    assert name_answer(what, answer) == name


async def test_a_broken_connection_has_failed() -> None:
    async def reset() -> int:
        raise httpx.ReadError("reset")

    async def say(status: int) -> int:
        return status

    answers = Answers()
    assert await answers.take(PUSH, reset()) is None
    assert await answers.take(PUSH, say(503)) == 503
    assert (answers.failed, answers.count_again(PUSH)) == (1, 1)
    assert answers.describe_failures() == "1 × push ReadError"


def test_refusals_begin_with_the_first_503_after_the_pause_and_a_later_answer_is_late() -> None:
    def push(sent_at: float, name: str, answered_at: float | None = None) -> Answer:
        return Answer(PUSH, name, sent_at, sent_at + 0.1 if answered_at is None else answered_at)

    log = [push(9, AGAIN), push(10.5, OK), push(11, AGAIN), push(12, OK), push(13, AGAIN), push(19, OK, 25)]
    figures = judge_refusals([*log, push(21, OK), Answer("status", OK, 14, 15)], paused_at=10, resumed_at=20)
    assert (figures["refused_s"], figures["refused_pushes"], figures["late_answers"]) == (1, 2, 2)
    assert math.isnan(judge_refusals([push(11, OK)], 10, 20)["refused_s"])


async def test_callers_end_with_their_load_and_none_calls_a_client_that_is_gone(tmp_path: Path) -> None:
    async def wait_for_ever(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError(request)

    backend, client = Backend(tmp_path), Client("http://service")
    await client._http.aclose()
    client._http = httpx.AsyncClient(base_url="http://service", transport=httpx.MockTransport(wait_for_ever))
    load = Load(client, backend, b"photo", b"mask", {})
    load.offer_push()
    await asyncio.sleep(0.2)
    await load.close()
    assert all(task.cancelled() for task in load._tasks)
    await client._http.aclose()
    backend.close()
