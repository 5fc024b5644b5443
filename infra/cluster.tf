locals {
  # One entry a pool; pods choose theirs by the label pawfect.dev/pool. Sizes are those of all zones together.
  node_pools = {
    # Ray's heads (two while a changed cluster comes up), Redis, the operator.
    system = { machine = var.nodes.system_machine, min = 1, max = var.nodes.system_max, disk_gb = 100, gpu = false, spot = false }
    # Editors, headshots, the prompt encoder: pods of 6 CPUs and 24 GB, with 32 GB of cache for the weights.
    cpu = { machine = var.nodes.cpu_machine, min = 0, max = var.nodes.cpu_max, disk_gb = 150, gpu = false, spot = false }
    # FLUX: one L4 to a node and to a pod.
    l4      = { machine = var.nodes.l4_machine, min = 0, max = var.nodes.l4_max, disk_gb = 200, gpu = true, spot = false }
    l4-spot = { machine = var.nodes.l4_machine, min = 0, max = var.nodes.l4_spot_max, disk_gb = 200, gpu = true, spot = true }
    # The job that fills the weights bucket: 48 GB of memory, 100 GB of disk, now and then for an hour.
    weights = { machine = var.nodes.weights_machine, min = 0, max = 1, disk_gb = 300, gpu = false, spot = false }
  }
}

# Regional: the control plane outlives a zone and its own upgrades, at the price of a zonal one (which a billing account
# gets one of for nothing), and L4s, above all Spot ones, are looked for in more than one zone. Nodes run only where they
# are needed, so more zones cost nothing; traffic between two of them does, a photo's few megabytes.
resource "google_container_cluster" "this" {
  name           = "pawfect"
  location       = var.region
  node_locations = var.zones

  # Pools are resources of their own; the first one is only there because a cluster cannot be made without.
  remove_default_node_pool = true
  initial_node_count       = 1
  deletion_protection      = var.deletion_protection

  network         = google_compute_network.this.id
  subnetwork      = google_compute_subnetwork.nodes.id
  networking_mode = "VPC_NATIVE"
  ip_allocation_policy {
    cluster_secondary_range_name  = google_compute_subnetwork.nodes.secondary_ip_range[0].range_name
    services_secondary_range_name = google_compute_subnetwork.nodes.secondary_ip_range[1].range_name
  }
  private_cluster_config {
    enable_private_nodes = true
  }
  # kubectl comes in by name, and IAM lets it in (container.clusters.connect); there is no address to guard.
  control_plane_endpoints_config {
    dns_endpoint_config {
      allow_external_traffic = true
    }
    ip_endpoints_config {
      enabled = false
    }
  }

  datapath_provider = "ADVANCED_DATAPATH" # NetworkPolicy is enforced
  workload_identity_config {
    workload_pool = "${var.project_id}.svc.id.goog"
  }
  gateway_api_config {
    channel = "CHANNEL_STANDARD"
  }

  addons_config {
    http_load_balancing {
      disabled = false # Gateway stands on it
    }
    gcs_fuse_csi_driver_config {
      enabled = true
    }
    gce_persistent_disk_csi_driver_config {
      enabled = true
    }
    dns_cache_config {
      enabled = true
    }
    # The add-on's version is GKE's choice and lags behind; the manifests want KubeRay 1.7 (token authentication,
    # priorities of worker groups), so Helm installs it. Both at once would fight over the same resources.
    ray_operator_config {
      enabled = false
    }
  }

  release_channel {
    channel = "REGULAR"
  }
  maintenance_policy {
    recurring_window { # nights of the region that the default is in, at the weekend when few photos come
      start_time = "2026-01-03T06:00:00Z"
      end_time   = "2026-01-03T12:00:00Z"
      recurrence = "FREQ=WEEKLY;BYDAY=SA,SU"
    }
  }

  logging_config {
    enable_components = ["SYSTEM_COMPONENTS", "WORKLOADS"]
  }
  monitoring_config {
    enable_components = ["SYSTEM_COMPONENTS", "STORAGE", "POD", "STATEFULSET", "HPA", "DCGM"]
    managed_prometheus {
      enabled = true
    }
  }
  cost_management_config {
    enabled = true # the bill by namespace and label
  }
  resource_labels = local.labels

  # The first pool's, which is removed: else it would want the project's default account.
  node_config {
    machine_type    = "e2-medium"
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    shielded_instance_config {
      enable_secure_boot = true
    }
  }
  lifecycle {
    ignore_changes = [node_config]
  }
  depends_on = [
    google_project_service.enabled,
    google_project_iam_member.nodes,
  ]
}

resource "google_container_node_pool" "this" {
  for_each = local.node_pools

  name               = each.key
  cluster            = google_container_cluster.this.id
  node_locations     = var.zones
  initial_node_count = each.value.min # in each zone; the autoscaler does not bring up the first ones

  autoscaling {
    total_min_node_count = each.value.min
    total_max_node_count = each.value.max
    location_policy      = "ANY" # wherever there is one; BALANCED would wait for a zone that has none
  }
  management {
    auto_repair  = true
    auto_upgrade = true
  }
  upgrade_settings {
    # No spare L4 is needed to upgrade one; the other pools bring the new node first.
    max_surge       = each.value.gpu ? 0 : 1
    max_unavailable = each.value.gpu ? 1 : 0
  }

  node_config {
    machine_type    = each.value.machine
    image_type      = "COS_CONTAINERD" # image streaming needs it
    disk_type       = "pd-balanced"
    disk_size_gb    = each.value.disk_gb
    spot            = each.value.spot
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    labels          = { "pawfect.dev/pool" = each.key }
    resource_labels = merge(local.labels, { pool = each.key })

    gcfs_config {
      enabled = true # image streaming: a pod starts before its gigabytes of torch and CUDA are there
    }
    gvnic {
      enabled = true
    }
    workload_metadata_config {
      mode = "GKE_METADATA"
    }
    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    dynamic "guest_accelerator" {
      for_each = each.value.gpu ? ["nvidia-l4"] : []
      content {
        type  = guest_accelerator.value
        count = 1
        gpu_driver_installation_config {
          gpu_driver_version = "LATEST" # torch's CUDA may want a newer one than GKE's default
        }
      }
    }
    # GKE's own pods, which would keep a node from being given back, stay in the pool of the system.
    dynamic "taint" {
      for_each = contains(["cpu", "weights"], each.key) ? [each.key] : []
      content {
        key    = "pawfect.dev/pool"
        value  = taint.value
        effect = "NO_SCHEDULE"
      }
    }
    # GKE sets the first one by itself only if a pool without GPUs is there already; said here, the order is no matter.
    dynamic "taint" {
      for_each = each.value.gpu ? [{ key = "nvidia.com/gpu", value = "present" }] : []
      content {
        key    = taint.value.key
        value  = taint.value.value
        effect = "NO_SCHEDULE"
      }
    }
    dynamic "taint" {
      for_each = each.value.spot ? [{ key = "cloud.google.com/gke-spot", value = "true" }] : []
      content {
        key    = taint.value.key
        value  = taint.value.value
        effect = "NO_SCHEDULE"
      }
    }
  }

  lifecycle {
    ignore_changes = [initial_node_count]
  }
}
