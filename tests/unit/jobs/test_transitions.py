"""The rules of a job's life: one table of refusals, and a state machine that tries every order of events."""

from __future__ import annotations

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serve_app.errors import (
    Conflict,
    EngineFailed,
    EngineUnavailable,
    LeaseLost,
    MaskEmpty,
    PawfectError,
    StoreUnavailable,
)
from serve_app.jobs import transitions
from serve_app.jobs.model import (
    SCHEMA,
    UNTRACED_SCHEMA,
    Job,
    Lane,
    Operation,
    Parameters,
    Priority,
    Progress,
    Session,
    Stage,
    Status,
    from_document,
    to_document,
)
from serve_app.settings_sections import JobSettings

SETTINGS = JobSettings(lease_s=30, deadline_s=3600, max_crashes=3, max_transient=5, retry_backoff_s=2)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OUTCOME = transitions.Outcome({"engine": 1.0}, "draft", 1.0, 0.5, 0.01)


def make_job(**changes: object) -> Job:
    job = Job(
        id="edit-1",
        session=Session("u", "s"),
        original_generation="1",
        mask_generation="2",
        parameters=Parameters("draft", "grass", 1, 0.0),
        created_at=1000.0,
        published_at=999.0,
        deadline_at=4600.0,
        deliveries=("m1",),
    )
    return job.evolve(**changes)


def claimed(**changes: object) -> Job:
    return transitions.claim(make_job(**changes), "token", 1001.0, SETTINGS)


def test_a_claim_takes_the_lease_and_counts_the_run() -> None:
    job = claimed()
    assert (job.status, job.attempts) == (Status.PROCESSING, 1)
    assert job.lease is not None
    assert (job.lease.token, job.lease.expires_at) == ("token", 1031.0)


def test_a_held_job_cannot_be_claimed() -> None:
    with pytest.raises(Conflict, match="held until 1031"):
        transitions.claim(claimed(), "other", 1030.9, SETTINGS)


def test_the_third_crash_fails_the_job() -> None:
    job, now = claimed(), 1001.0
    for crash in (1, 2):
        now += 31
        job = transitions.claim(job, f"token-{crash}", now, SETTINGS)
        assert (job.status, job.crashes) == (Status.PROCESSING, crash)
    job = transitions.claim(job, "token-3", now + 31, SETTINGS)
    assert (job.status, job.error_code, job.crashes) == (Status.FAILED, "crashed", 3)
    assert "3 times" in (job.error or "")


def test_the_fifth_transient_failure_fails_the_job_and_the_pauses_double() -> None:
    job, now, pauses = claimed(), 1001.0, []
    for run in range(1, 6):
        job = transitions.settle(job, "token", now, EngineFailed("boom"), SETTINGS)
        if run < 5:
            assert job.status is Status.QUEUED
            pauses.append(job.not_before - now)
            now = job.not_before
            job = transitions.claim(job, "token", now, SETTINGS)
    assert pauses == [2, 4, 8, 16]
    assert (job.status, job.error_code) == (Status.FAILED, "engine_failed")
    assert "boom" in (job.error or "")


@pytest.mark.parametrize("error", [StoreUnavailable("down"), EngineUnavailable("loading")])
def test_outages_are_never_counted(error: PawfectError) -> None:
    job, now = claimed(), 1001.0
    for _ in range(20):
        job = transitions.settle(job, "token", now, error, SETTINGS)
        assert (job.status, job.transient_failures) == (Status.QUEUED, 0)
        now += 10
        job = transitions.claim(job, "token", now, SETTINGS)


def test_a_permanent_failure_fails_at_once_with_its_sentence() -> None:
    job = transitions.settle(claimed(), "token", 1002.0, MaskEmpty("nothing is white"), SETTINGS)
    assert (job.status, job.error_code, job.error) == (Status.FAILED, "mask_empty", "nothing is white")


def test_a_job_past_its_deadline_is_failed_instead_of_run() -> None:
    job = transitions.claim(make_job(), "token", 4600.0, SETTINGS)
    assert (job.status, job.error_code, job.attempts) == (Status.FAILED, "deadline_exceeded", 0)
    assert "3600 s" in (job.error or "")


@pytest.mark.parametrize(
    "write",
    [
        lambda job: transitions.beat(job, "stale", 1002.0, None, SETTINGS),
        lambda job: transitions.complete(job, "stale", 1002.0, OUTCOME),
        lambda job: transitions.release(job, "stale"),
        lambda job: transitions.settle(job, "stale", 1002.0, EngineFailed("x"), SETTINGS),
        lambda job: transitions.obey(job, "stale", 1002.0, True),
        lambda job: transitions.completing(OUTCOME)(job, "stale", 1002.0, True),
        lambda job: transitions.settling(MaskEmpty("x"), SETTINGS)(job, "stale", 1002.0, True),
    ],
)
def test_only_the_holder_may_write(write: object) -> None:
    with pytest.raises(LeaseLost):
        write(claimed())  # type: ignore[operator]


def test_a_beat_writes_only_when_progress_moved_or_the_lease_is_due() -> None:
    job = claimed()
    assert transitions.beat(job, "token", 1002.0, None, SETTINGS, due=False) is job
    moved = transitions.beat(job, "token", 1002.0, Progress(Stage.ENGINE, 1, 2), SETTINGS, due=False)
    assert moved.progress == Progress(Stage.ENGINE, 1, 2)
    renewed = transitions.beat(job, "token", 1011.0, None, SETTINGS, due=True)
    assert renewed.lease is not None
    assert renewed.lease.expires_at == 1041.0


def test_cancelling_a_running_job_marks_it_and_obeying_ends_it() -> None:
    job = transitions.request_cancel(claimed(), 1002.0)
    assert (job.status, job.cancel_requested) == (Status.PROCESSING, True)
    assert transitions.obey(job, "token", 1003.0, False).status is Status.CANCELLED


def test_a_new_message_voids_a_cancellation_not_yet_obeyed() -> None:
    later = make_job(priority=Priority.URGENT, deadline_at=9000.0)
    job = transitions.join(transitions.request_cancel(claimed(), 1002.0), later, "m2")
    assert (job.priority, job.deadline_at) == (Priority.URGENT, 9000.0)
    assert transitions.obey(job, "token", 1003.0, False).status is Status.QUEUED


def test_a_cancelled_job_whose_worker_died_is_not_run_again() -> None:
    job = transitions.request_cancel(claimed(), 1002.0)
    assert transitions.claim(job, "other", 1040.0, SETTINGS).status is Status.CANCELLED


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_a_finished_job_cannot_be_cancelled(status: Status) -> None:
    with pytest.raises(Conflict, match=f"already {status}"):
        transitions.request_cancel(make_job(status=status), 1002.0)


def test_requeue_starts_over_but_remembers_who_asked() -> None:
    failed = transitions.settle(claimed(), "token", 1002.0, MaskEmpty("x"), SETTINGS)
    fresh = make_job(created_at=2000.0, deliveries=("m2",))
    again = transitions.requeue(failed, fresh, "m2")
    assert (again.status, again.attempts, again.error, again.created_at) == (Status.QUEUED, 0, None, 2000.0)
    assert again.deliveries == ("m1", "m2")


def test_documents_round_trip() -> None:
    job = claimed(stage_seconds={"decode": 0.1}).evolve(progress=Progress(Stage.ENGINE, 1, 2, 3.5, decoding=True))
    assert from_document(to_document(job)) == job
    with pytest.raises(ValueError, match=f"schema {SCHEMA + 1}"):
        from_document({**to_document(job), "schema": SCHEMA + 1})


def test_documents_of_an_earlier_version_are_read() -> None:
    job = claimed().evolve(progress=Progress(Stage.ENGINE, 1, 2, 3.5))
    earlier = {**to_document(job), "schema": 1, "progress": {"stage": "engine", "step": 1, "steps": 2, "eta_s": 3.5}}
    for name in ("operation", "engine", "owner", "digest", "expires_at", "ended_version", "original_path", "headshot"):
        del earlier[name]
    assert from_document(earlier) == job


def test_documents_from_before_the_headshots_are_read() -> None:
    job = claimed(session=None, operation=Operation.TRANSFORM, owner="ann", digest="d", expires_at=5.0)
    earlier = {**to_document(job), "schema": 2}
    del earlier["original_path"], earlier["headshot"]
    assert from_document(earlier) == job
    assert job.operation.lane is Lane.IMAGES


def test_a_document_without_a_trace_is_one_that_the_version_before_reads() -> None:
    """While replicas are updated one by one, both versions work on the same jobs."""
    document = to_document(claimed())
    assert document["schema"] == UNTRACED_SCHEMA
    assert "traceparent" not in document


def test_a_trace_is_kept_and_said_by_the_schema() -> None:
    job = claimed(traceparent=TRACEPARENT)
    document = to_document(job)
    assert (document["schema"], document["traceparent"]) == (SCHEMA, TRACEPARENT)
    assert from_document(document) == job


def test_who_joins_leaves_the_job_in_its_trace_and_who_begins_anew_takes_it_along() -> None:
    job, fresh = claimed(traceparent=TRACEPARENT), make_job(traceparent=TRACEPARENT.replace("a", "c"))
    assert transitions.join(job, fresh, "m2").traceparent == TRACEPARENT
    assert transitions.renew(job, fresh, "m2").traceparent == fresh.traceparent
    failed = transitions.settle(job, "token", 1002.0, MaskEmpty("x"), SETTINGS)
    assert transitions.requeue(failed, fresh, "m2").traceparent == fresh.traceparent


def test_an_end_remembers_the_version_it_is_written_with() -> None:
    job = claimed(version=4)
    assert job.ended_version is None
    failed = transitions.settle(job, "token", 1002.0, MaskEmpty("x"), SETTINGS)
    closed = transitions.close(failed.evolve(version=5))
    assert (failed.ended_version, closed.ended_version) == (5, 5)
    assert transitions.requeue(closed, make_job(deliveries=("m2",)), "m2").ended_version is None


class JobLife(RuleBasedStateMachine):
    """Any order of claims, crashes, failures, cancels, messages and deadlines keeps the invariants."""

    def __init__(self) -> None:
        super().__init__()
        self.job = make_job()
        self.now = 1000.0
        self.token = ""
        self.tokens = 0
        self.runs_of_life = 0
        self.messages = 1

    def move(self, job: Job) -> None:
        if job.status is not self.job.status:
            assert job.status in transitions.LEGAL[self.job.status]
        self.job = job

    @rule(seconds=st.floats(0.1, 40))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def claim(self) -> None:
        job = self.job
        held = job.lease is not None and job.lease.expires_at > self.now
        self.tokens += 1
        if job.status.is_final or held:
            with pytest.raises(Conflict):
                transitions.claim(job, f"t{self.tokens}", self.now, SETTINGS)
            return
        self.move(transitions.claim(job, f"t{self.tokens}", self.now, SETTINGS))
        self.token = f"t{self.tokens}"

    @precondition(lambda self: self.job.lease is not None)
    @rule(
        how=st.sampled_from(["complete", "release", "obey", "supersede", "transient", "outage", "permanent", "beat"]),
        stale=st.booleans(),
    )
    def worker_speaks(self, how: str, stale: bool) -> None:
        token = "stale" if stale else self.token
        ends = {
            "complete": transitions.completing(OUTCOME),
            "release": lambda job, token, _now, _superseded: transitions.release(job, token),
            "obey": transitions.obey,
            "supersede": transitions.completing(OUTCOME),
            "transient": transitions.settling(EngineFailed("x"), SETTINGS),
            "outage": transitions.settling(StoreUnavailable("x"), SETTINGS),
            "permanent": transitions.settling(MaskEmpty("x"), SETTINGS),
            "beat": lambda job, token, now, _superseded: transitions.beat(job, token, now, None, SETTINGS),
        }
        if stale:
            with pytest.raises(LeaseLost):
                ends[how](self.job, token, self.now, how == "supersede")
            return
        self.move(ends[how](self.job, token, self.now, how == "supersede"))

    @rule()
    def cancel(self) -> None:
        if self.job.status.is_final:
            with pytest.raises(Conflict):
                transitions.request_cancel(self.job, self.now)
        else:
            self.move(transitions.request_cancel(self.job, self.now))

    @rule()
    def message_comes(self) -> None:
        self.messages += 1
        delivery = f"m{self.messages}"
        if self.job.status.is_final:
            fresh = make_job(created_at=self.now, deadline_at=self.now + 3600, deliveries=(delivery,))
            self.move(transitions.requeue(self.job, fresh, delivery))
        else:
            self.move(transitions.join(self.job, make_job(), delivery))

    @precondition(lambda self: not self.job.status.is_final)
    @rule()
    def message_about_another_photo_comes(self) -> None:
        self.messages += 1
        fresh = make_job(original_generation=str(self.messages))
        self.move(transitions.renew(self.job, fresh, f"m{self.messages}"))
        assert (self.job.status, self.job.original_generation) == (Status.QUEUED, fresh.original_generation)

    @invariant()
    def only_a_running_job_has_a_lease(self) -> None:
        assert (self.job.lease is not None) == (self.job.status is Status.PROCESSING)

    @invariant()
    def runs_are_bounded_and_counted(self) -> None:
        assert self.job.crashes <= SETTINGS.max_crashes
        assert self.job.transient_failures <= SETTINGS.max_transient
        assert self.job.attempts >= self.job.transient_failures

    @invariant()
    def a_failure_has_a_reason(self) -> None:
        if self.job.status is Status.FAILED:
            assert self.job.error_code
            assert self.job.error
            assert self.job.finished_at is not None

    @invariant()
    def money_is_only_spent_on_completed_work(self) -> None:
        assert (self.job.cost > 0) == (self.job.status is Status.COMPLETED)

    @invariant()
    def every_message_is_remembered(self) -> None:
        assert self.job.deliveries[-1] == f"m{self.messages}"


TestJobLife = JobLife.TestCase
TestJobLife.settings = hypothesis_settings(max_examples=100, stateful_step_count=40, deadline=None)
