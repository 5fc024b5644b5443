"""What is written in `infra/` is as the provider's schema and our rules want it, and each kind of mistake is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra_check.__main__ import main
from infra_check.check import find_wrong
from infra_check.configuration import INFRA, read_configuration
from infra_check.examples import EXAMPLES
from infra_check.schema import load_schema
from tests.unit.infra.conftest import Copy

NEW = 'resource "google_storage_bucket" "new" {\n  name = "x"\n  location = "y"\n%s}\n'
CLOSED = '  uniform_bucket_level_access = true\n  public_access_prevention = "enforced"\n'
PUBLIC = """resource "google_storage_bucket_iam_member" "all" {
  bucket = google_storage_bucket.outputs.name
  role   = "roles/storage.objectViewer"
  member = "allUsers"
}
"""
SUBSCRIPTION = "infra/pubsub.tf: google_pubsub_subscription.push"
MISTAKES = {
    "an attribute that there is not": (
        ("pubsub.tf", "ack_deadline_seconds = 600", "ack_deadline = 600"),
        f'{SUBSCRIPTION}: no attribute "ack_deadline"',
    ),
    "an attribute of a block that there is not": (
        ("pubsub.tf", 'maximum_backoff = "600s"', 'max_backoff = "600s"'),
        f'{SUBSCRIPTION}.retry_policy: no attribute "max_backoff"',
    ),
    "an attribute inside a dynamic block": (
        ("cluster.tf", "type  = guest_accelerator.value", "kind  = guest_accelerator.value"),
        'infra/cluster.tf: google_container_node_pool.this.node_config.guest_accelerator: no attribute "kind"',
    ),
    "a block that there is not": (
        ("pubsub.tf", "oidc_token {", "oidc {"),
        f'{SUBSCRIPTION}.push_config: no block "oidc"',
    ),
    "a block that is an attribute": (
        ("storage.tf", "  lifecycle_rule {", "  labels {\n    a = 1\n  }\n  lifecycle_rule {"),
        'infra/storage.tf: google_storage_bucket.weights: no block "labels", it is an attribute',
    ),
    "a required attribute left out": (
        ("pubsub.tf", "  topic = each.value.topic\n", ""),
        f'{SUBSCRIPTION}: "topic" is missing',
    ),
    "a required block left out": (
        ("budget.tf", "  amount {\n    specified_amount {\n      units = tostring(var.budget)\n    }\n  }\n", ""),
        'infra/budget.tf: google_billing_budget.this: block "amount" is missing',
    ),
    "two blocks where one may be": (
        ("pubsub.tf", "  retry_policy {", '  retry_policy {\n    minimum_backoff = "1s"\n  }\n  retry_policy {'),
        f'{SUBSCRIPTION}: 2 blocks "retry_policy", where 1 may be',
    ),
    "what only the provider can say": (
        ("accounts.tf", 'account_id   = "pawfect-push"', 'account_id   = "pawfect-push"\n  email = "me"'),
        'infra/accounts.tf: google_service_account.push: "email" is for the provider to say',
    ),
    "a value that is none of the listed ones": (
        ("registry.tf", '"TAGGED"', '"TAGED"'),
        "infra/registry.tf: google_artifact_registry_repository.images.cleanup_policies.condition: "
        '"tag_state" is TAGED; it may be TAGGED, UNTAGGED, ANY',
    ),
    "a type that there is not": (
        ("secrets.tf", '"google_secret_manager_secret"', '"google_secretmanager_secret"'),
        "infra/secrets.tf: google_secretmanager_secret.hub_token: no type google_secretmanager_secret; "
        "if it is new here, renew the schema (infra_check.derive)",
    ),
    "the other provider's type": (
        ("pubsub.tf", "  provider = google-beta\n", ""),
        "infra/pubsub.tf: google_project_service_identity.pubsub: "
        "the type is google-beta's; say provider = google-beta",
    ),
    "a resource that is not declared": (
        ("pubsub.tf", "topic  = google_pubsub_topic.dead_letter.id", "topic  = google_pubsub_topic.dead_letters.id"),
        "infra/pubsub.tf: google_pubsub_topic_iam_member.agent_publishes_dead_letters: "
        "google_pubsub_topic.dead_letters is not declared",
    ),
    "an attribute of another resource that it has not": (
        ("delivery.tf", "google_service_account.deploy.member", "google_service_account.deploy.principal"),
        "infra/delivery.tf: google_artifact_registry_repository_iam_member.deploy_pushes: "
        'google_service_account.deploy has no "principal"',
    ),
    "one of many without an index": (
        ("firestore.tf", "google_firestore_database.this[0].name", "google_firestore_database.this.name"),
        "infra/firestore.tf: google_firestore_backup_schedule.daily: "
        "google_firestore_database.this has many instances; name one",
    ),
    "a variable that is not declared": (
        ("network.tf", "var.ranges.nodes", "var.range.nodes"),
        "infra/network.tf: google_compute_subnetwork.nodes: var.range is not declared",
    ),
    "a local that is not declared": (
        ("outputs.tf", '["PUSH_AUDIENCE", local.audience]', '["PUSH_AUDIENCE", local.push_audience]'),
        "infra/outputs.tf: output.project_env: local.push_audience is not declared",
    ),
    "data that is not declared": (
        ("budget.tf", "data.google_project.this.number", "data.google_project.that.number"),
        "infra/budget.tf: google_billing_budget.this: data.google_project.that is not declared",
    ),
    "each without for_each": (
        ("secrets.tf", 'secret_id = "pawfect-hf-token"', "secret_id = each.key"),
        "infra/secrets.tf: google_secret_manager_secret.hub_token: each.key without a for_each",
    ),
    "text that is not looked into": (
        ("outputs.tf", "value       = local.image", "value       = <<-EOT\n    ${local.nothing}\n  EOT"),
        "infra/outputs.tf: output.image: a heredoc, which is not looked into; write a join of lines",
    ),
    "a variable that nothing uses": (
        ("variables.tf", "", 'variable "idle" {\n  type = bool\n  description = "x"\n}\n'),
        "infra/variables.tf: var.idle: nothing uses it",
    ),
    "a local that nothing uses": (
        ("names.tf", "", 'locals {\n  idle = "x"\n}\n'),
        "infra: local.idle: nothing uses it",
    ),
    "a variable without a description": (
        ("variables.tf", 'description = "Region of', 'default = "Region of'),
        "infra/variables.tf: var.region: no description",
    ),
    "a variable that takes anything": (
        (
            "variables.tf",
            "  validation {\n    condition     = var.budget >= 1 && floor(var.budget) == var.budget\n"
            '    error_message = "budget is a whole number, at least 1."\n  }\n',
            "",
        ),
        "infra/variables.tf: var.budget: no validation",
    ),
    "a project's name": (
        (
            "firestore.tf",
            '  type                              = "FIRESTORE_NATIVE"',
            '  project = "pawfect-prod"\n  type = "FIRESTORE_NATIVE"',
        ),
        "infra/firestore.tf: google_firestore_database.this: "
        'project = "pawfect-prod" is one project\'s; use a variable',
    ),
    "a project's name in a member": (
        (
            "pubsub.tf",
            "member = google_project_service_identity.pubsub.member",
            'member = "serviceAccount:x@pawfect-prod.iam.gserviceaccount.com"',
        ),
        "infra/pubsub.tf: google_pubsub_topic_iam_member.agent_publishes_dead_letters: "
        '"serviceAccount:x@pawfect-prod.iam.gserviceaccount.com" names a project; use var.project_id',
    ),
    "everybody": (
        ("storage.tf", "", PUBLIC),
        "infra/storage.tf: google_storage_bucket_iam_member.all: allUsers is everybody",
    ),
    "a basic role": (
        ("delivery.tf", '"roles/container.developer"', '"roles/editor"'),
        "infra/delivery.tf: google_project_iam_member.deploy: "
        "roles/editor is a basic role, which may do far more than is needed",
    ),
    "an open bucket": (
        ("storage.tf", "", NEW % CLOSED.replace("enforced", "inherited")),
        "infra/storage.tf: google_storage_bucket.new: public_access_prevention must be enforced",
    ),
}


def test_infra_is_right() -> None:
    assert find_wrong(INFRA) == []


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(copy: Copy, name: str) -> None:
    change, sentence = MISTAKES[name]
    assert sentence in find_wrong(copy(change))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("google_service_account_key", "a key of an account, which would lie in the state; use Workload Identity"),
        (
            "google_secret_manager_secret_version",
            "a secret's value, which would lie in the state; add versions by hand",
        ),
        ("google_project_iam_binding", "it takes away what others were granted; use the _iam_member type"),
        ("google_storage_bucket_iam_policy", "it takes away what others were granted; use the _iam_member type"),
    ],
)
def test_what_must_not_be_made(copy: Copy, kind: str, reason: str) -> None:
    wrong = find_wrong(copy(("secrets.tf", "", f'resource "{kind}" "x" {{\n}}\n')))
    assert f"infra/secrets.tf: {kind}.x: {reason}" in wrong


def test_what_is_no_hcl_is_named(copy: Copy) -> None:
    (wrong,) = find_wrong(copy(("pubsub.tf", "retry_policy {", "retry_policy {{")))
    assert wrong.startswith("infra/pubsub.tf:")
    assert "this is no HCL" in wrong


def test_the_command_says_what_is_wrong(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(copy(("pubsub.tf", "ack_deadline_seconds = 600", "ack_deadline = 600")))]) == 1
    assert capsys.readouterr().out == f'{SUBSCRIPTION}: no attribute "ack_deadline"\n'


def test_providers_are_those_of_the_schema() -> None:
    """A constraint that lets in another major would be checked against the wrong names."""
    text = (INFRA / "versions.tf").read_text()
    for version in load_schema().versions.values():
        assert f'version = "~> {version.rpartition(".")[0]}"' in text


def test_the_schema_has_what_is_used_and_nothing_else() -> None:
    configuration, schema = read_configuration(INFRA), load_schema()
    assert {block.labels[0] for block in configuration.blocks("resource")} == set(schema.resources)
    assert {block.labels[0] for block in configuration.blocks("data")} == set(schema.data)


def test_the_command_plans_what_is_right(
    terraform: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for more in ("an empty project with a backend", "a project with the app in it"):
        monkeypatch.delitem(EXAMPLES, more)  # one is enough here
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("infra, planned for an empty project: ")


def test_the_command_wants_the_usual_format(terraform: str, copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(copy(("secrets.tf", "  secret_id = ", "    secret_id = ")))]) == 1
    assert capsys.readouterr().out == "infra/secrets.tf: not formatted; run terraform fmt\n"


def test_the_command_says_what_terraform_refuses(
    terraform: str, copy: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(copy(("names.tf", "merge({", "combine({")))]) == 1
    assert "no function named" in " ".join(capsys.readouterr().out.split())


def test_the_example_of_variables_is_one() -> None:
    """Every name in it, commented out or not, is a variable's."""
    lines = Path(INFRA / "terraform.tfvars.example").read_text().splitlines()
    names = {line.removeprefix("# ").split("=")[0].strip() for line in lines if "=" in line}
    assert names <= {block.labels[0] for block in read_configuration(INFRA).blocks("variable")}
    assert len(names) > 5
