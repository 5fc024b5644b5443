"""Buckets keep what the application still needs, and Firestore has the indexes it asks with."""

from __future__ import annotations

import json

from bench.pages import write_indexes
from infra_check.plan import Plan
from ingress.job_schemas import MAX_DEADLINE_S
from tests.unit.infra.planned import DAY_S, GOOGLE, HEADSHOTS, JOBS


def read_deletions(plan: Plan, bucket: str) -> list[tuple[int, list[str]]]:
    """Age in days and prefixes of each rule of a bucket that deletes."""
    rules = plan.resources[f"google_storage_bucket.{bucket}"]["lifecycle_rule"]
    return [
        (rule["condition"][0]["age"], rule["condition"][0]["matches_prefix"] or [])
        for rule in rules
        if rule["action"][0]["type"] == "Delete"
    ]


def check_jobs_lifecycle(plan: Plan) -> None:
    """The bucket deletes no image whose job may still be asked for, and of the sessions' photos none at all."""
    ((age, prefixes),) = read_deletions(plan, "photos[0]")
    assert prefixes == ["jobs/"]
    assert age * DAY_S > JOBS.result_ttl_s + MAX_DEADLINE_S + DAY_S


def check_outputs_lifecycle(plan: Plan) -> None:
    ((age, prefixes),) = read_deletions(plan, "outputs")
    assert prefixes == []
    assert HEADSHOTS.ttl_s + JOBS.deadline_s + DAY_S < age * DAY_S < HEADSHOTS.ttl_s + 30 * DAY_S


def check_other_buckets_lifecycle(plan: Plan) -> None:
    assert read_deletions(plan, "originals") == read_deletions(plan, "weights") == []


def check_buckets_are_closed(plan: Plan) -> None:
    assert len(plan.of_type("google_storage_bucket")) == 4
    for values in plan.of_type("google_storage_bucket").values():
        assert values["uniform_bucket_level_access"] is True
        assert values["public_access_prevention"] == "enforced"


def check_indexes(plan: Plan) -> None:
    """Exactly those that the code is written for."""
    wanted = {
        (index["collectionGroup"], index["queryScope"], *((one["fieldPath"], one["order"]) for one in index["fields"]))
        for index in json.loads(write_indexes())["indexes"]
    }
    made = {
        (one["collection"], one["query_scope"], *((part["field_path"], part["order"]) for part in one["fields"]))
        for one in plan.of_type("google_firestore_index").values()
    }
    assert made == wanted
    assert {one["database"] for one in plan.of_type("google_firestore_index").values()} == {GOOGLE.database}


def check_ttl(plan: Plan) -> None:
    (override,) = json.loads(write_indexes())["fieldOverrides"]
    (made,) = plan.of_type("google_firestore_field").values()
    assert (made["collection"], made["field"]) == (override["collectionGroup"], override["fieldPath"])
    assert len(made["ttl_config"]) == 1
    assert made["index_config"] == [{"indexes": []}]
