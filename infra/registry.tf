resource "google_artifact_registry_repository" "images" {
  repository_id = "pawfect"
  location      = var.region
  format        = "DOCKER"
  description   = "Images of the service, by commit and by release"

  # Tags can be moved: where they cannot, nothing that is tagged can be cleaned up, at 8 GB an image. Only the account
  # that deploys may write.
  docker_config {
    immutable_tags = false
  }

  cleanup_policies {
    id     = "old"
    action = "DELETE"
    condition {
      tag_state  = "ANY"
      older_than = "7776000s" # 90 days
    }
  }
  # A policy that keeps wins over one that deletes.
  cleanup_policies {
    id     = "releases"
    action = "KEEP"
    condition {
      tag_state    = "TAGGED"
      tag_prefixes = ["v"]
    }
  }
  cleanup_policies {
    id     = "last"
    action = "KEEP"
    most_recent_versions {
      keep_count = 20 # what make rollback can go back to, however quiet the year
    }
  }
  depends_on = [google_project_service.enabled]
}
