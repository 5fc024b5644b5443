"""Accounts may do what the code does, and no more."""

from __future__ import annotations

import re

from infra_check.examples import BACKEND, PROJECT
from infra_check.plan import Plan
from pawfect.replay import SUBSCRIPTION as REPLAY
from tests.unit.infra.planned import GOOGLE, SERVE, list_grants, read_environment, subscription, topic


def check_serve_grants(plan: Plan) -> None:
    """What the code does, and nothing else. Objects: read, list, create, replace, delete. Documents. Letters. Links."""
    account = f"projects/{PROJECT}/serviceAccounts/pawfect-serve@{PROJECT}.iam.gserviceaccount.com"
    buckets = read_environment(plan)
    assert list_grants(plan, SERVE) == {
        ("roles/datastore.user", PROJECT),
        ("roles/iam.serviceAccountTokenCreator", account),
        ("roles/storage.objectViewer", buckets["PHOTOS_BUCKET"]),
        ("roles/storage.objectUser", buckets["PHOTOS_BUCKET"]),
        ("roles/storage.objectViewer", buckets["WEIGHTS_BUCKET"]),
        ("roles/storage.objectUser", buckets["HEADSHOT_ORIGINALS_BUCKET"]),
        ("roles/storage.objectUser", buckets["HEADSHOT_OUTPUTS_BUCKET"]),
        *(
            ("roles/pubsub.publisher", topic(name))
            for name in (GOOGLE.topic, GOOGLE.headshot_topic, GOOGLE.dead_letter_topic)
        ),
        *(("roles/pubsub.subscriber", subscription(name)) for name in (GOOGLE.dead_letter_subscription, REPLAY)),
    }


def check_written_prefixes(plan: Plan) -> None:
    """The prefixes that the code writes to; reading is not limited, see accounts.tf."""
    (condition,) = plan.resources["google_storage_bucket_iam_member.serve_writes_photos"]["condition"]
    bucket = read_environment(plan)["PHOTOS_BUCKET"]
    assert re.findall(r'"([^"]+)"', condition["expression"]) == [
        f"projects/_/buckets/{bucket}/objects/{prefix}" for prefix in ("users/", "jobs/")
    ]


def check_backend_photos(plan: Plan) -> None:
    """Into a bucket made here the app's backend may put what its sessions name, and read what they got."""
    bucket = read_environment(plan)["PHOTOS_BUCKET"]
    assert {role for role, target in list_grants(plan, BACKEND) if target == bucket} == {"roles/storage.objectUser"}
    grant = plan.resources[f'google_storage_bucket_iam_member.app_photos["{BACKEND}"]']
    (condition,) = grant["condition"]
    assert re.findall(r'"([^"]+)"', condition["expression"]) == [f"projects/_/buckets/{bucket}/objects/users/"]


def check_other_grants(plan: Plan) -> None:
    """The account whose tokens pushes bear may do nothing, and nobody is let in that is not named here."""
    assert list_grants(plan, SERVE.replace("-serve", "-push")) == set()
    weights = list_grants(plan, SERVE.replace("-serve", "-weights"))
    bucket = read_environment(plan)["WEIGHTS_BUCKET"]
    assert weights == {
        ("roles/storage.objectUser", bucket),
        ("roles/secretmanager.secretAccessor", f"projects/{PROJECT}/secrets/pawfect-hf-token"),
    }


def check_identities(plan: Plan) -> None:
    """Kubernetes accounts of the manifests, and the accounts they stand for."""
    for name, account in (("pawfect", "serve"), ("pawfect-weights", "weights")):
        email = f"pawfect-{account}@{PROJECT}.iam.gserviceaccount.com"
        wanted = ("roles/iam.workloadIdentityUser", f"projects/{PROJECT}/serviceAccounts/{email}")
        assert wanted in list_grants(plan, f"serviceAccount:{PROJECT}.svc.id.goog[pawfect/{name}]")
