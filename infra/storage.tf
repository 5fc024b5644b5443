locals {
  week = 7 * 24 * 3600
}

# Model weights, read by every pod through GCS FUSE. They can be fetched again, so nothing of them is kept twice.
resource "google_storage_bucket" "weights" {
  name                        = local.buckets.weights
  location                    = var.region # in one region reading is free, and near
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true

  soft_delete_policy {
    retention_duration_seconds = 0
  }
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }
  depends_on = [google_project_service.enabled]
}

# The app's backend and, by upload links, browsers put photos here. The service deletes what came through it.
resource "google_storage_bucket" "originals" {
  name                        = local.buckets.originals
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection

  soft_delete_policy {
    retention_duration_seconds = local.week
  }
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }
  dynamic "lifecycle_rule" {
    for_each = var.retention_days.uploads > 0 ? [var.retention_days.uploads] : []
    content {
      action {
        type = "Delete"
      }
      condition {
        age = lifecycle_rule.value
      }
    }
  }
  dynamic "cors" {
    for_each = length(var.upload_origins) > 0 ? [var.upload_origins] : []
    content {
      origin = cors.value
      method = ["PUT"]
      # Those that an upload link is signed with; a browser asks before it sends them.
      response_header = ["Content-Type", "x-goog-content-length-range", "x-goog-if-generation-match"]
      max_age_seconds = 3600
    }
  }
  depends_on = [google_project_service.enabled]
}

resource "google_storage_bucket" "outputs" {
  name                        = local.buckets.outputs
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection

  soft_delete_policy {
    retention_duration_seconds = local.week
  }
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age = var.retention_days.outputs
    }
  }
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }
  depends_on = [google_project_service.enabled]
}

# Only where the app has none yet. One that exists keeps its rules: the output photos_lifecycle_rule is to be added.
resource "google_storage_bucket" "photos" {
  count = local.create_photos_bucket ? 1 : 0

  name                        = local.buckets.photos
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection

  soft_delete_policy {
    retention_duration_seconds = local.week
  }
  # Images of jobs over HTTP whose record was never written; sessions' photos, under users/, are the app's.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age            = var.retention_days.jobs
      matches_prefix = ["jobs/"]
    }
  }
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }
  depends_on = [google_project_service.enabled]
}

data "google_storage_bucket" "photos" {
  count = local.create_photos_bucket ? 0 : 1

  name = local.buckets.photos
}

locals {
  # A role can be limited to a prefix only where access lists of single objects are switched off.
  photos_uniform = local.create_photos_bucket || try(data.google_storage_bucket.photos[0].uniform_bucket_level_access, false)
}
