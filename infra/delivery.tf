# Who deploys: one account, for Cloud Build and for GitHub's workflows, which exchange their own token for one of its
# (https://cloud.google.com/iam/docs/workload-identity-federation-with-deployment-pipelines).

resource "google_artifact_registry_repository_iam_member" "deploy_pushes" {
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.deploy.member
}

resource "google_project_iam_member" "deploy" {
  for_each = toset([
    "roles/container.developer",               # objects in the cluster; not the cluster itself, nor its roles
    "roles/cloudbuild.builds.editor",          # gcloud builds submit
    "roles/logging.logWriter",                 # builds that run as this account write their own logs
    "roles/logging.viewer",                    # and whoever submits one reads them
    "roles/serviceusage.serviceUsageConsumer", # gcloud asks in the project's name
  ])

  project = var.project_id
  role    = each.key
  member  = google_service_account.deploy.member
}

# A build that this account submits runs as this account.
resource "google_service_account_iam_member" "deploy_acts_as_itself" {
  service_account_id = google_service_account.deploy.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.deploy.member
}

# The identity token with which a roll-out is verified.
resource "google_service_account_iam_member" "deploy_proves_itself" {
  service_account_id = google_service_account.deploy.name
  role               = "roles/iam.serviceAccountOpenIdTokenCreator"
  member             = google_service_account.deploy.member
}

# Sources of builds, as gcloud builds submit --gcs-source-staging-dir wants them.
resource "google_storage_bucket" "builds" {
  name                        = local.buckets.builds
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true

  soft_delete_policy {
    retention_duration_seconds = 0
  }
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age = var.retention_days.builds
    }
  }
  depends_on = [google_project_service.enabled]
}

resource "google_storage_bucket_iam_member" "deploy_stages" {
  for_each = toset(["roles/storage.objectUser", "roles/storage.bucketViewer"])

  bucket = google_storage_bucket.builds.name
  role   = each.key
  member = google_service_account.deploy.member
}

resource "google_iam_workload_identity_pool" "github" {
  count = var.github_repository == "" ? 0 : 1

  workload_identity_pool_id = "github"
  display_name              = "GitHub"
  depends_on                = [google_project_service.enabled]
}

resource "google_iam_workload_identity_pool_provider" "github" {
  count = var.github_repository == "" ? 0 : 1

  workload_identity_pool_id          = google_iam_workload_identity_pool.github[0].workload_identity_pool_id
  workload_identity_pool_provider_id = "workflows"
  display_name                       = "Workflows"

  attribute_mapping = {
    "google.subject"       = "assertion.sub"
    "attribute.repository" = "assertion.repository"
    "attribute.ref"        = "assertion.ref"
  }
  # Every repository of GitHub has tokens of this issuer: only this one's, and only on these refs, are let in.
  attribute_condition = join(" && ", [
    "assertion.repository == \"${var.github_repository}\"",
    "assertion.ref in [${join(", ", [for ref in sort(tolist(var.github_refs)) : "\"${ref}\""])}]",
  ])

  oidc {
    issuer_uri = "https://token.actions.githubusercontent.com"
  }
}

resource "google_service_account_iam_member" "github_deploys" {
  count = var.github_repository == "" ? 0 : 1

  service_account_id = google_service_account.deploy.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "principalSet://iam.googleapis.com/${google_iam_workload_identity_pool.github[0].name}/attribute.repository/${var.github_repository}"
}
