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
    "roles/logging.logWriter",                 # builds that run as this account write their own logs
    "roles/serviceusage.serviceUsageConsumer", # gcloud asks in the project's name
  ])

  project = var.project_id
  role    = each.key
  member  = google_service_account.deploy.member
}

# The identity token with which a roll-out is verified: gcloud speaks as the account to get one, for which the role that
# gives identity tokens alone is not enough. People who deploy need the same.
resource "google_service_account_iam_member" "deploy_proves_itself" {
  for_each = setunion([google_service_account.deploy.member], var.deployers)

  service_account_id = google_service_account.deploy.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.key
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
