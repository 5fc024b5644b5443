# Values that several files use; nothing here needs a resource.
locals {
  labels = merge({ app = "pawfect", managed-by = "terraform" }, var.labels)

  namespace            = "pawfect"
  create_photos_bucket = var.photos_bucket == ""
  buckets = {
    photos    = local.create_photos_bucket ? "${var.project_id}-pawfect-photos" : var.photos_bucket
    weights   = "${var.project_id}-pawfect-weights"
    originals = "${var.project_id}-pawfect-headshots-originals"
    outputs   = "${var.project_id}-pawfect-headshots-outputs"
  }

  url = "https://${var.hostname}"
  # Both subscriptions send tokens for it, and callers of the session routes ask for theirs with it.
  audience = "${local.url}/"
}
