output "project_env" {
  description = "The content of k8s/overlays/gke-l4/project.env."
  value = join("\n", [for pair in [
    ["PROJECT_ID", var.project_id],
    ["REGION", var.region],
    ["HOSTNAME", var.hostname],
    ["IMAGE", local.image],
    ["SERVE_ACCOUNT", google_service_account.serve.email],
    ["WEIGHTS_ACCOUNT", google_service_account.weights.email],
    ["PUSH_ACCOUNT", google_service_account.push.email],
    ["PHOTOS_BUCKET", local.buckets.photos],
    ["WEIGHTS_BUCKET", google_storage_bucket.weights.name],
    ["HEADSHOT_ORIGINALS_BUCKET", google_storage_bucket.originals.name],
    ["HEADSHOT_OUTPUTS_BUCKET", google_storage_bucket.outputs.name],
    ["PUSH_AUDIENCE", local.audience],
    ["STATIC_ADDRESS", google_compute_global_address.this.name],
    ["CERTIFICATE_MAP", google_certificate_manager_certificate_map.this.name],
    ["ALLOWED_CALLERS", jsonencode(sort(concat([google_service_account.deploy.email], tolist(var.callers))))],
    [null, null],
  ] : pair[0] == null ? "" : "${pair[0]}=${pair[1]}"])
}

locals {
  repository = google_artifact_registry_repository.images
  image      = "${local.repository.location}-docker.pkg.dev/${var.project_id}/${local.repository.repository_id}/pawfect"
}

output "image" {
  description = "Where images are pushed to and pulled from, without a tag."
  value       = local.image
}

output "credentials_command" {
  description = "Makes kubectl talk to the cluster."
  value       = "gcloud container clusters get-credentials ${google_container_cluster.this.name} --location=${google_container_cluster.this.location} --project=${var.project_id} --dns-endpoint"
}

output "operator_command" {
  description = "Installs KubeRay, once, by somebody who may write cluster roles (roles/container.admin)."
  value = join(" ", [
    "helm upgrade --install kuberay-operator kuberay-operator --version=1.7.0",
    "--repo=https://ray-project.github.io/kuberay-helm",
    "--namespace=kuberay-system --create-namespace",
    # A head's service has an address of its own then: without, each new head is somewhere else, and for the 30 s in which
    # its nodes look for it all replicas are given up (python -m bench.cluster).
    "--set='env[0].name=ENABLE_RAY_HEAD_CLUSTER_IP_SERVICE' --set-string='env[0].value=true'",
    "--set='nodeSelector.pawfect\\.dev/pool=${google_container_node_pool.this["system"].name}'",
  ])
}

output "dns_records" {
  description = "What the zone of hostname must have; made already where dns_zone is given."
  value       = local.dns_records
}

output "photos_lifecycle_rule" {
  description = "To be added to the lifecycle of the app's own bucket, beside what is there (gcloud storage buckets update --lifecycle-file replaces all); null where the bucket was created here."
  value = local.create_photos_bucket ? null : jsonencode({
    action    = { type = "Delete" }
    condition = { age = var.retention_days.jobs, matchesPrefix = ["jobs/"] }
  })
}

output "workload_identity_provider" {
  description = "For GitHub's workflows (google-github-actions/auth); null without github_repository."
  value       = one(google_iam_workload_identity_pool_provider.github[*].name)
}

output "deploy_account" {
  description = "The account that Cloud Build and workflows deploy as."
  value       = google_service_account.deploy.email
}

output "secret_command" {
  description = "Puts the model hub's token, from standard input, where the weights job finds it."
  value       = "gcloud secrets versions add ${google_secret_manager_secret.hub_token.secret_id} --project=${var.project_id} --data-file=-"
}

output "subscriptions" {
  description = "Full names of the subscriptions, for the runbooks."
  value = {
    push        = { for kind, subscription in google_pubsub_subscription.push : kind => subscription.id }
    dead_letter = google_pubsub_subscription.dead_letter_service.id
    replay      = google_pubsub_subscription.dead_letter_replay.id
  }
}
