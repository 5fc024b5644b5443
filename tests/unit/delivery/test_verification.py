"""What a service that answers so or so is taken for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from delivery.check import Check
from delivery.errors import Unverified, VerificationFailed
from delivery.verification import verify
from tests.unit.delivery.service import NEW, OLD, WAITING, FakeService, Serving, draw_edit

ROOT = Path(__file__).parents[3]
PAUSED = (503, {"type": "urn:pawfect:problem:paused", "detail": "Paused by an operator: repairs."})
BUSY = (503, {"type": "urn:pawfect:problem:store_unavailable", "detail": "The store does not answer."})
FAILED = {"status": "failed", "error": {"code": "crashed", "message": "It crashed three times."}}


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def check(service: FakeService) -> Iterator[Check]:
    """Of the new version, by an edit, in no time."""
    with Serving(service) as serving:
        yield Check(
            serving.url, NEW, True, settle_s=0.0, edit_s=20.0, old_s=20.0, paused_s=0.1, again_s=0.01, poll_s=0.01
        )


def run(check: Check) -> tuple[str, str]:
    """The remark, and what was said."""
    said: list[str] = []
    return asyncio.run(verify(check, said.append)), "\n".join(said)


def test_an_edit_by_the_wanted_version(check: Check, service: FakeService) -> None:
    remark, said = run(replace(check, token="pk_1"))
    assert remark == ""
    assert f"by version {NEW}: changed by" in said
    assert service.tokens == ["Bearer pk_1"]


def test_what_the_old_version_edits_or_fails_proves_nothing(check: Check, service: FakeService) -> None:
    """Its Editors claim jobs for ten minutes more."""
    service.jobs = [OLD, FAILED, OLD, NEW]
    remark, said = run(check)
    assert remark == ""
    assert said.count(f"only version {OLD} has edited the canary, not {NEW}. It is asked again") == 2
    assert "It crashed three times. It is asked again" in said
    assert f"by version {NEW}: changed by" in said
    assert len({key for key, _ in service.asked}) == len({seed for _, seed in service.asked}) == 4


def test_a_version_that_never_edits_fails(check: Check, service: FakeService) -> None:
    service.jobs = [OLD]
    with pytest.raises(VerificationFailed, match=f"only version {OLD} has edited the canary, not {NEW}"):
        run(replace(check, edit_s=0.3))
    assert len(service.asked) > 1


@pytest.mark.parametrize("left", [{"status": "queued"}, {"status": "processing", "progress": {"stage": "download"}}])
def test_a_version_whose_editors_take_no_job_once_the_old_ones_are_gone(
    check: Check, service: FakeService, left: dict[str, Any]
) -> None:
    draw_edit(OLD)
    service.jobs = [OLD, left]
    with pytest.raises(VerificationFailed, match=f"is {left['status']} after .* and only version {OLD} has edited"):
        run(replace(check, edit_s=3.0))


def test_a_version_that_fails_every_job(check: Check, service: FakeService) -> None:
    service.jobs = [FAILED]
    with pytest.raises(VerificationFailed, match="the canary is failed: It crashed three times"):
        run(replace(check, old_s=0.2))
    assert len(service.asked) > 1
    service.asked.clear()
    with pytest.raises(VerificationFailed):
        run(replace(check, version=None))
    assert len(service.asked) == 1, "any version's edit would have done"


@pytest.mark.parametrize(("version", "told"), [(None, OLD), (NEW, None)])
def test_who_edited_it_is_said_but_need_not_be_known(
    check: Check, service: FakeService, version: str | None, told: str | None
) -> None:
    service.jobs = [told]
    remark, said = run(replace(check, version=version))
    assert remark == ""
    assert f"by {f'version {told}' if told else 'a version that pictures do not tell'}: changed by" in said


def test_a_pause_is_no_failure(check: Check, service: FakeService) -> None:
    service.refusals, service.is_stuck = [PAUSED], True
    assert run(check)[0] == "not edited: consumption is paused by an operator (Paused by an operator: repairs.)"
    assert len(service.tokens) > 1


def test_a_replica_that_starts_seems_paused(check: Check, service: FakeService) -> None:
    service.refusals = [PAUSED, PAUSED]
    remark, said = run(replace(check, paused_s=5.0))
    assert remark == ""
    assert "changed by" in said


@pytest.mark.parametrize("answer", [BUSY, (429, {"detail": "slower"}), (502, {"detail": "no backend"})])
def test_what_passes_is_waited_for(check: Check, service: FakeService, answer: tuple[int, dict[str, str]]) -> None:
    service.refusals = [answer] * 3
    assert run(check)[0] == ""
    service.refusals, service.is_stuck = [answer], True
    with pytest.raises(VerificationFailed, match=f"answers {answer[0]}: {answer[1]['detail']}"):
        run(replace(check, edit_s=0.1))


@pytest.mark.parametrize("left", [{"status": "queued"}, WAITING])
def test_without_an_engine_nothing_is_known(check: Check, service: FakeService, left: dict[str, Any]) -> None:
    service.jobs = [left]
    with pytest.raises(Unverified, match=r"not edited: no engine yet; the canary is .*--quality draft"):
        run(replace(check, edit_s=0.1))
    assert service.cancelled == ["/v1/jobs/job-0"], "or it would have an L4 started for nobody"


def test_the_old_version_had_an_engine_and_the_new_one_waits(check: Check, service: FakeService) -> None:
    draw_edit(OLD)
    service.jobs = [OLD, WAITING]
    with pytest.raises(Unverified, match="no engine yet"):
        run(replace(check, edit_s=3.0))


@pytest.mark.parametrize("progress", [{"stage": "engine", "step": 3}, {"stage": "upload", "step": 0}, None])
def test_a_version_that_hangs_fails(check: Check, service: FakeService, progress: dict[str, Any] | None) -> None:
    service.jobs = [{"status": "processing", "progress": progress}]
    with pytest.raises(VerificationFailed, match="the canary is processing after"):
        run(replace(check, edit_s=0.1))


def test_an_engine_that_loads_has_the_edits_time(check: Check, service: FakeService) -> None:
    service.ready = {"ready": False, "state": "loading", "reason": "No replica of FluxFill runs."}
    remark, said = run(check)
    assert remark == ""
    assert "No replica of FluxFill runs. The edit has its own time" in said
    with pytest.raises(VerificationFailed, match="No replica of FluxFill runs"):
        run(replace(check, is_edit=False))
    service.ready["state"] = "failed"
    with pytest.raises(VerificationFailed, match="No replica of FluxFill runs"):
        run(check)


def test_without_an_edit_no_job_is_asked_for(check: Check, service: FakeService) -> None:
    assert run(replace(check, is_edit=False))[0] == ""
    assert service.asked == []


def test_the_old_cluster_stays_as_long_as_the_check_expects() -> None:
    manifest = yaml.safe_load((ROOT / "k8s" / "base" / "rayservice.yaml").read_text())
    assert manifest["spec"]["rayClusterDeletionDelaySeconds"] == Check("http://localhost").old_s
