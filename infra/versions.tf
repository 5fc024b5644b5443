# From an empty project with billing to all that the service stands on. By hand, once, before the first apply:
#
#   gcloud auth application-default login
#   gcloud services enable cloudresourcemanager.googleapis.com serviceusage.googleapis.com --project=PROJECT_ID
#   gcloud storage buckets create gs://PROJECT_ID-terraform --project=PROJECT_ID --location=REGION \
#     --uniform-bucket-level-access --public-access-prevention
#   gcloud storage buckets update gs://PROJECT_ID-terraform --versioning
#
#   terraform -chdir=infra init -backend-config=bucket=PROJECT_ID-terraform
#   terraform -chdir=infra apply                  # with terraform.tfvars, see terraform.tfvars.example
#   terraform -chdir=infra output -raw project_env > k8s/overlays/gke-l4/project.env
#
# The state holds no secret: the hub token is put into Secret Manager by hand (secrets.tf), and there are no keys.

terraform {
  required_version = ">= 1.9, < 2.0"

  required_providers {
    # The newest whose schema python -m infra_check knows; what a later 6.x adds is not used.
    google = {
      source  = "hashicorp/google"
      version = "~> 6.50"
    }
    # For one resource that the other lacks: the identity with which Pub/Sub sends.
    google-beta = {
      source  = "hashicorp/google-beta"
      version = "~> 6.50"
    }
  }

  backend "gcs" {
    prefix = "pawfect"
  }
}

provider "google" {
  project = var.project_id
  region  = var.region
  # Budgets are asked for in the name of a project, which a person's own credentials do not have.
  billing_project       = var.project_id
  user_project_override = true
  default_labels        = local.labels
}

provider "google-beta" {
  project               = var.project_id
  region                = var.region
  billing_project       = var.project_id
  user_project_override = true
}

data "google_project" "this" {
  project_id = var.project_id
}
