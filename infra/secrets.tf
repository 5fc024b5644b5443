# The token of the model hub. Its value never passes through Terraform, whose state would keep it:
#   printf %s "$HF_TOKEN" | gcloud secrets versions add pawfect-hf-token --data-file=-
resource "google_secret_manager_secret" "hub_token" {
  secret_id = "pawfect-hf-token"

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }
  depends_on = [google_project_service.enabled]
}
