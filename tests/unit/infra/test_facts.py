"""The infrastructure that Terraform plans and the application agree; and each fact fails when it is broken."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from infra_check.configuration import INFRA
from infra_check.examples import BACKEND, EXAMPLES, HOSTNAME, PROJECT
from infra_check.plan import Plan, PlanFailed, make_plan
from pawfect.resources import provision
from tests.unit.infra import facts_access, facts_cluster, facts_pubsub, facts_stores, planned
from tests.unit.infra.conftest import Copy
from tests.unit.photos.test_gcs_links import open_links, own_key

Change = tuple[str, str, str]
SEEDED: dict[Callable[[Plan], None], Change] = {
    facts_pubsub.check_topics: (
        "variables.tf",
        'optional(string, "perkie-headshot-jobs")',
        'optional(string, "headshot-jobs")',
    ),
    facts_pubsub.check_subscriptions: (
        "variables.tf",
        '"session-processing-dead-letter-replay"',
        '"session-processing-replay"',
    ),
    facts_pubsub.check_endpoints: ("pubsub.tf", "/headshot/push", "/headshots/push"),
    facts_pubsub.check_push_tokens: ("pubsub.tf", "audience              = local.audience", "audience = local.url"),
    facts_pubsub.check_ack_deadline: ("pubsub.tf", "ack_deadline_seconds = 600", "ack_deadline_seconds = 60"),
    facts_pubsub.check_backoff: ("pubsub.tf", 'maximum_backoff = "600s"', 'maximum_backoff = "60s"'),
    facts_pubsub.check_push_retention: ("pubsub.tf", '"604800s"', '"1209600s"'),
    facts_pubsub.check_nothing_expires: ("pubsub.tf", 'ttl = "" # never', 'ttl = "2678400s"'),
    facts_pubsub.check_dead_letter_policy: ("pubsub.tf", "max_delivery_attempts = 100", "max_delivery_attempts = 5"),
    facts_pubsub.check_agent_publishes: (
        "pubsub.tf",
        'role   = "roles/pubsub.publisher"',
        'role   = "roles/pubsub.viewer"',
    ),
    facts_pubsub.check_agent_acknowledges: (
        "pubsub.tf",
        'role         = "roles/pubsub.subscriber"',
        'role = "roles/pubsub.viewer"',
    ),
    facts_pubsub.check_letters_last: ("pubsub.tf", '"2678400s" # 31', '"604800s" # 31'),
    facts_stores.check_jobs_lifecycle: ("variables.tf", "optional(number, 16)", "optional(number, 15)"),
    facts_stores.check_outputs_lifecycle: ("variables.tf", "optional(number, 33)", "optional(number, 90)"),
    facts_stores.check_other_buckets_lifecycle: (
        "storage.tf",
        "var.retention_days.uploads > 0 ?",
        "var.retention_days.uploads == 0 ?",
    ),
    facts_stores.check_buckets_are_closed: ("storage.tf", '"enforced"', '"inherited"'),
    facts_stores.check_indexes: (
        "firestore.tf",
        "for index in local.firestore.indexes :",
        "for index in slice(local.firestore.indexes, 1, 9) :",
    ),
    facts_stores.check_ttl: ("firestore.tf", "  index_config {}\n", ""),
    facts_access.check_serve_grants: ("accounts.tf", '"roles/datastore.user"', '"roles/datastore.owner"'),
    facts_access.check_written_prefixes: (
        "accounts.tf",
        '[["users/", "jobs/"]]',
        '[["users/", "jobs/", "configuration/"]]',
    ),
    facts_access.check_backend_photos: ("accounts.tf", "objects/users/\\", "objects/\\"),
    facts_access.check_other_grants: ("accounts.tf", "roles/secretmanager.secretAccessor", "roles/secretmanager.admin"),
    facts_access.check_identities: ("names.tf", '"pawfect"\n  create', '"default"\n  create'),
    facts_cluster.check_environment: ("outputs.tf", '["CERTIFICATE_MAP",', '["CERTMAP",'),
    facts_cluster.check_gateway: ("gateway.tf", "hostname     = var.hostname", 'hostname = "*.${var.hostname}"'),
    facts_cluster.check_node_pools: ("cluster.tf", '"pawfect.dev/pool" = each.key', '"pawfect/pool" = each.key'),
    facts_cluster.check_l4_pools: (
        "cluster.tf",
        '{ key = "cloud.google.com/gke-spot", value = "true" }',
        '{ key = "spot", value = "true" }',
    ),
    facts_cluster.check_cluster: ("cluster.tf", '"ADVANCED_DATAPATH"', '"LEGACY_DATAPATH"'),
    facts_cluster.check_machines: ("variables.tf", '"e2-highmem-8"', '"e2-standard-8"'),
    facts_cluster.check_runbooks: ("monitoring.tf", "PawfectDeadLetters in", "PawfectLetters in"),
    facts_pubsub.check_watched_subscriptions: (
        "monitoring.tf",
        '\\"${var.names.headshot_subscription}\\"',
        '\\"headshots\\"',
    ),
    facts_cluster.check_services: ("services.tf", '"secretmanager.googleapis.com",', ""),
}
"""Each fact, and a change of infra/ that must break it."""
CHECKS = [pytest.param(check, id=check.__name__) for check in SEEDED]


@pytest.fixture(scope="session")
def broken(terraform: str, copy: Copy) -> Plan:
    """With all the changes at once."""
    return make_plan(copy(*SEEDED.values()), EXAMPLES["an empty project with a backend"])


def test_every_fact_is_checked() -> None:
    modules = (facts_access, facts_cluster, facts_pubsub, facts_stores)
    found = {check for module in modules for name, check in vars(module).items() if name.startswith("check_")}
    assert found == set(SEEDED)


@pytest.mark.parametrize("check", CHECKS)
def test_a_fact_holds(backed: Plan, check: Callable[[Plan], None]) -> None:
    check(backed)


@pytest.mark.parametrize("check", CHECKS)
def test_a_broken_fact_fails(broken: Plan, check: Callable[[Plan], None]) -> None:
    with pytest.raises((AssertionError, KeyError, ValueError)):
        check(broken)


def test_emulators_get_what_production_gets(empty: Plan) -> None:
    """`make emulators` and the tests work with the same deadlines, backoff and attempts."""
    wanted = {
        name: one.default
        for name, one in inspect.signature(provision).parameters.items()
        if one.default is not one.empty
    }
    for values in planned.read_pushes(empty).values():
        (retry,), (policy,) = values["retry_policy"], values["dead_letter_policy"]
        assert values["ack_deadline_seconds"] == wanted["ack_deadline_s"]
        assert retry["minimum_backoff"] == f"{wanted['min_backoff_s']}s"
        assert retry["maximum_backoff"] == f"{wanted['max_backoff_s']}s"
        assert policy["max_delivery_attempts"] == wanted["max_delivery_attempts"]


def test_browsers_may_send_what_an_upload_link_is_signed_with(full: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    links = open_links(None, own_key())  # type: ignore[arg-type]  # a key of its own asks nobody
    link = asyncio.run(links.sign_upload("headshots/originals/job-1/original/dog.jpg", "image/jpeg", 1000))
    links.close()
    (cors,) = full.resources["google_storage_bucket.originals"]["cors"]
    assert cors["origin"] == EXAMPLES["a project with the app in it"]["upload_origins"]
    assert cors["method"] == [link.method]
    assert set(cors["response_header"]) == set(link.headers)


def test_without_web_pages_no_browser_may_upload(empty: Plan) -> None:
    assert empty.resources["google_storage_bucket.originals"]["cors"] == []


def test_what_the_app_has_is_left_alone(full: Plan) -> None:
    """Its bucket and its database are used, not made; the rule that its bucket lacks is an output."""
    assert "google_storage_bucket.photos[0]" not in full.resources
    assert full.of_type("google_firestore_database") == full.of_type("google_firestore_backup_schedule") == {}
    assert planned.read_environment(full)["PHOTOS_BUCKET"] == f"{PROJECT}.firebasestorage.app"
    assert '"matchesPrefix":["jobs/"]' in full.outputs["photos_lifecycle_rule"]
    facts_stores.check_indexes(full)
    facts_access.check_serve_grants(full)


def test_the_app_may_publish_and_upload_and_nothing_else(full: Plan) -> None:
    assert planned.list_grants(full, BACKEND) == {
        ("roles/pubsub.publisher", planned.topic(planned.GOOGLE.topic)),
        ("roles/pubsub.publisher", planned.topic(planned.GOOGLE.headshot_topic)),
        ("roles/storage.objectCreator", f"{PROJECT}-pawfect-headshots-originals"),
    }


def test_only_the_repository_on_its_branch_may_deploy(full: Plan, empty: Plan) -> None:
    provider = full.resources["google_iam_workload_identity_pool_provider.github[0]"]
    assert provider["attribute_condition"] == (
        'assertion.repository == "owner/pawfect-serve" && assertion.ref in ["refs/heads/main"]'
    )
    assert provider["oidc"][0]["issuer_uri"] == "https://token.actions.githubusercontent.com"
    member = full.resources["google_service_account_iam_member.github_deploys[0]"]["member"]
    assert member.endswith("/workloadIdentityPools/github/attribute.repository/owner/pawfect-serve")
    assert empty.of_type("google_iam_workload_identity_pool") == {}


def test_records_are_made_where_there_is_a_zone(full: Plan, empty: Plan) -> None:
    assert {one["type"] for one in full.of_type("google_dns_record_set").values()} >= {"A"}
    assert full.resources['google_dns_record_set.this["address"]']["name"] == f"{HOSTNAME}."
    assert empty.of_type("google_dns_record_set") == {}
    assert set(empty.outputs["dns_records"]) == {"address", "proof"}


def test_people_are_told(full: Plan, empty: Plan) -> None:
    channels = full.of_type("google_monitoring_notification_channel")
    assert len(channels) == 1
    for values in full.of_type("google_monitoring_alert_policy").values():
        assert len(values["notification_channels"]) == 1
    (budget,) = full.of_type("google_billing_budget").values()
    assert [rule["threshold_percent"] for rule in budget["threshold_rules"]] == [0.5, 0.9, 1.0, 1.2]
    assert empty.of_type("google_billing_budget") == {}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a project's number": ({"project_id": "123456"}, "project_id is 6 to 30"),
    "a URL": ({"hostname": "https://pawfect.example.com"}, "hostname is a name"),
    "a zone elsewhere": ({"zones": ["us-central1-a"]}, "only zones of the region"),
    "a bucket's URL": ({"photos_bucket": "gs://photos"}, "without gs://"),
    "everybody": ({"publishers": ["allUsers"]}, "publishers are IAM members"),
    "a person": ({"callers": ["me@example.com"]}, "callers are e-mails of service accounts"),
    "every site": ({"upload_origins": ["*"]}, "upload_origins are sites"),
    "images gone too early": ({"retention_days": {"jobs": 9}}, "jobs at least 15"),
    "another machine": ({"nodes": {"l4_machine": "a2-highgpu-1g"}}, "must be of the g2-standard machines"),
    "no branch": ({"github_refs": ["main"]}, "github_refs are full refs"),
    "a network of letters": ({"ranges": {"pods": "all"}}, "ranges are in CIDR notation"),
    "a label in capitals": ({"labels": {"Team": "x"}}, "labels are lower-case"),
}


@pytest.fixture(scope="session")
def refusal(terraform: str) -> str:
    """What Terraform says to all of them at once."""
    wrong: dict[str, Any] = {}
    for variables, _ in REFUSED.values():
        wrong |= variables
    assert len(wrong) == len(REFUSED)
    with pytest.raises(PlanFailed) as caught:
        make_plan(INFRA, {**EXAMPLES["an empty project"], **wrong})
    return " ".join(str(caught.value).split())


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_variable_is_refused(refusal: str, name: str) -> None:
    assert REFUSED[name][1] in refusal


WRONG: dict[str, tuple[Change, str]] = {
    "a word for a number": (
        ("pubsub.tf", "ack_deadline_seconds = 600", 'ack_deadline_seconds = "long"'),
        "a number is required",
    ),
    "a list for a map": (
        ("cluster.tf", 'labels          = { "pawfect.dev/pool" = each.key }', "labels = [each.key]"),
        "map of string required",
    ),
    "a computed value that is none of the listed ones": (
        ("firestore.tf", '"DELETE_PROTECTION_ENABLED" :', '"ON" :'),
        "delete_protection_state is 'ON'; it may be DELETE_PROTECTION_STATE_UNSPECIFIED",
    ),
    "a file that is not there": (("firestore.tf", "firestore.indexes.json", "indexes.json"), "no file exists"),
    "a function that there is not": (("names.tf", "merge({", "combine({"), "no function named"),
    "a circle": (("gateway.tf", "domain     = var.hostname", "domain = local.proof.name"), "Cycle"),
}


@pytest.mark.parametrize("name", WRONG)
def test_terraform_finds_what_only_it_can(terraform: str, copy: Copy, name: str) -> None:
    change, sentence = WRONG[name]
    with pytest.raises(PlanFailed) as caught:
        make_plan(copy(change), EXAMPLES["an empty project"])
    assert sentence in " ".join(str(caught.value).split())
