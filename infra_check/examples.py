"""Variables with which `infra/` is planned: as little as there may be, and all that there is."""

from __future__ import annotations

from typing import Any

PROJECT = "my-project"
HOSTNAME = "pawfect.example.com"
BACKEND = f"serviceAccount:backend@{PROJECT}.iam.gserviceaccount.com"

EXAMPLES: dict[str, dict[str, Any]] = {
    "an empty project": {"project_id": PROJECT, "hostname": HOSTNAME},
    "an empty project with a backend": {"project_id": PROJECT, "hostname": HOSTNAME, "publishers": [BACKEND]},
    "a project with the app in it": {
        "project_id": PROJECT,
        "hostname": HOSTNAME,
        "dns_zone": "example-com",
        "photos_bucket": f"{PROJECT}.firebasestorage.app",
        "create_database": False,
        "publishers": [BACKEND],
        "callers": [f"backend@{PROJECT}.iam.gserviceaccount.com"],
        "upload_origins": ["https://app.example.com"],
        "retention_days": {"uploads": 60},
        "alert_emails": ["oncall@example.com"],
        "billing_account": "000000-000000-00000A",
        "github_repository": "owner/pawfect-serve",
        "labels": {"team": "photos"},
    },
}
