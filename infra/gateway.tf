# What the Gateway of k8s/overlays/gke-l4 refers to by name. The domain is proved by a DNS record, so the certificate is
# there before any traffic comes.
resource "google_compute_global_address" "this" {
  name       = "pawfect"
  depends_on = [google_project_service.enabled]
}

resource "google_certificate_manager_dns_authorization" "this" {
  name       = "pawfect"
  domain     = var.hostname
  depends_on = [google_project_service.enabled]
}

resource "google_certificate_manager_certificate" "this" {
  name = "pawfect"

  managed {
    domains            = [var.hostname]
    dns_authorizations = [google_certificate_manager_dns_authorization.this.id]
  }
}

resource "google_certificate_manager_certificate_map" "this" {
  name       = "pawfect"
  depends_on = [google_project_service.enabled]
}

resource "google_certificate_manager_certificate_map_entry" "this" {
  name         = "pawfect"
  map          = google_certificate_manager_certificate_map.this.name
  certificates = [google_certificate_manager_certificate.this.id]
  hostname     = var.hostname
}

locals {
  proof = google_certificate_manager_dns_authorization.this.dns_resource_record[0]
  dns_records = {
    address = { name = "${var.hostname}.", type = "A", data = google_compute_global_address.this.address }
    proof   = { name = local.proof.name, type = local.proof.type, data = local.proof.data }
  }
}

resource "google_dns_record_set" "this" {
  for_each = { for key, record in local.dns_records : key => record if var.dns_zone != "" }

  managed_zone = var.dns_zone
  name         = each.value.name
  type         = each.value.type
  ttl          = 300
  rrdatas      = [each.value.data]
}
