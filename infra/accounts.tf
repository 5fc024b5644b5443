# Who may do what. No account has a key: pods get theirs by Workload Identity, workflows by federation (delivery.tf).

resource "google_service_account" "serve" {
  account_id   = "pawfect-serve"
  display_name = "Pawfect: the running service"
  depends_on   = [google_project_service.enabled]
}

resource "google_service_account" "push" {
  account_id   = "pawfect-push"
  display_name = "Pawfect: whose tokens the push subscriptions send; it may do nothing"
  depends_on   = [google_project_service.enabled]
}

resource "google_service_account" "weights" {
  account_id   = "pawfect-weights"
  display_name = "Pawfect: the job that fills the weights bucket"
  depends_on   = [google_project_service.enabled]
}

resource "google_service_account" "nodes" {
  account_id   = "pawfect-nodes"
  display_name = "Pawfect: nodes of the cluster"
  depends_on   = [google_project_service.enabled]
}

resource "google_service_account" "deploy" {
  account_id   = "pawfect-deploy"
  display_name = "Pawfect: builds and roll-outs"
  depends_on   = [google_project_service.enabled]
}

locals {
  pods = {
    pawfect         = google_service_account.serve.name
    pawfect-weights = google_service_account.weights.name
  }
}

# The pool PROJECT_ID.svc.id.goog is there once a cluster has been made.
resource "google_service_account_iam_member" "pods" {
  for_each = local.pods

  service_account_id = each.value
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project_id}.svc.id.goog[${local.namespace}/${each.key}]"
  depends_on         = [google_container_cluster.this]
}

# --- The service. Jobs, controls and what the app watches are documents.
resource "google_project_iam_member" "serve_documents" {
  project = var.project_id
  role    = "roles/datastore.user"
  member  = google_service_account.serve.member
}

# Links to files are signed by IAM in the account's own name (signBlob).
resource "google_service_account_iam_member" "serve_signs_links" {
  service_account_id = google_service_account.serve.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = google_service_account.serve.member
}

# Reading, with listing: without it Cloud Storage answers 403 for a photo that is not there, where the service must see
# 404, and so a role that is limited to prefixes does not do for reading (listing is asked of the bucket).
resource "google_storage_bucket_iam_member" "serve_reads" {
  for_each = toset(["photos", "weights"])

  bucket     = local.buckets[each.key]
  role       = "roles/storage.objectViewer"
  member     = google_service_account.serve.member
  depends_on = [google_storage_bucket.photos, google_storage_bucket.weights]
}

# Writing, which includes replacing and so deleting, below the two prefixes it writes to.
resource "google_storage_bucket_iam_member" "serve_writes_photos" {
  bucket = local.buckets.photos
  role   = "roles/storage.objectUser"
  member = google_service_account.serve.member

  dynamic "condition" {
    for_each = local.photos_uniform ? [["users/", "jobs/"]] : []
    content {
      title       = "users and jobs"
      description = "Results of sessions and images of jobs"
      expression = join(" || ", [
        for prefix in condition.value :
        "resource.name.startsWith(\"projects/_/buckets/${local.buckets.photos}/objects/${prefix}\")"
      ])
    }
  }
  depends_on = [google_storage_bucket.photos]
}

resource "google_storage_bucket_iam_member" "serve_writes_headshots" {
  for_each = {
    originals = google_storage_bucket.originals.name
    outputs   = google_storage_bucket.outputs.name
  }

  bucket = each.value
  role   = "roles/storage.objectUser"
  member = google_service_account.serve.member
}

# Letters; the other two topics are those that pawfect.replay and pawfect seed-session publish to from a pod.
resource "google_pubsub_topic_iam_member" "serve_publishes" {
  for_each = {
    dead_letter = google_pubsub_topic.dead_letter.id
    sessions    = google_pubsub_topic.sessions.id
    headshots   = google_pubsub_topic.headshots.id
  }

  topic  = each.value
  role   = "roles/pubsub.publisher"
  member = google_service_account.serve.member
}

resource "google_pubsub_subscription_iam_member" "serve_pulls" {
  for_each = {
    service = google_pubsub_subscription.dead_letter_service.id
    replay  = google_pubsub_subscription.dead_letter_replay.id
  }

  subscription = each.value
  role         = "roles/pubsub.subscriber"
  member       = google_service_account.serve.member
}

# --- The job that fills the weights bucket. GCS FUSE lists and replaces.
resource "google_storage_bucket_iam_member" "weights_writes" {
  bucket = google_storage_bucket.weights.name
  role   = "roles/storage.objectUser"
  member = google_service_account.weights.member
}

resource "google_secret_manager_secret_iam_member" "weights_reads_token" {
  secret_id = google_secret_manager_secret.hub_token.id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.weights.member
}

# --- Nodes: logs, metrics, images. What they may do every pod without an identity of its own may do, too.
resource "google_project_iam_member" "nodes" {
  for_each = toset([
    "roles/container.defaultNodeServiceAccount",
    "roles/monitoring.viewer", # rules of Managed Service for Prometheus read what they are about
  ])

  project = var.project_id
  role    = each.key
  member  = google_service_account.nodes.member
}

resource "google_artifact_registry_repository_iam_member" "nodes_pull" {
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.nodes.member
}

# --- The app's backend puts sessions' photos into a bucket that is made here and reads their results; for one of the
# app's own it has its roles. It knows the paths, so it lists nothing: a list would show the images of others' jobs.
resource "google_storage_bucket_iam_member" "app_photos" {
  for_each = local.create_photos_bucket ? var.publishers : toset([])

  bucket = local.buckets.photos
  role   = "roles/storage.objectUser"
  member = each.key

  condition {
    title       = "users"
    description = "Photos and results of sessions"
    expression  = "resource.name.startsWith(\"projects/_/buckets/${local.buckets.photos}/objects/users/\")"
  }
  depends_on = [google_storage_bucket.photos]
}

# It puts headshots' originals where its messages say they are.
resource "google_storage_bucket_iam_member" "app_uploads" {
  for_each = var.publishers

  bucket = google_storage_bucket.originals.name
  role   = "roles/storage.objectCreator"
  member = each.key
}
