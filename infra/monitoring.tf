# What Prometheus in the cluster cannot see: Pub/Sub's side, the way in from outside, GPUs that cannot be had. The rest
# is in k8s/alerts. What to do: docs/runbooks.md.

resource "google_monitoring_notification_channel" "email" {
  for_each = var.alert_emails

  type         = "email"
  display_name = "Pawfect: ${each.key}"
  labels       = { email_address = each.key }
  depends_on   = [google_project_service.enabled]
}

locals {
  channels = concat([for channel in google_monitoring_notification_channel.email : channel.name], tolist(var.notification_channels))

  of_push         = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = one_of(\"${var.names.subscription}\", \"${var.names.headshot_subscription}\")"
  of_replay       = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"${var.names.replay_subscription}\""
  push_responses  = "metric.type = \"pubsub.googleapis.com/subscription/push_request_count\" AND ${local.of_push}"
  oldest_unacked  = "metric.type = \"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" AND ${local.of_push}"
  unreplayed      = "metric.type = \"pubsub.googleapis.com/subscription/num_undelivered_messages\" AND ${local.of_replay}"
  of_uptime_check = "metric.type = \"monitoring.googleapis.com/uptime_check/check_passed\" AND resource.type = \"uptime_url\" AND metric.labels.check_id = \"${google_monitoring_uptime_check_config.health.uptime_check_id}\""
}

resource "google_monitoring_alert_policy" "oldest_message" {
  display_name          = "Pawfect: messages wait"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = local.channels

  conditions {
    display_name = "The oldest message has not been acknowledged for 30 minutes"
    condition_threshold {
      filter          = local.oldest_unacked
      comparison      = "COMPARISON_GT"
      threshold_value = 1800
      duration        = "300s"
      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }
  documentation {
    content = "PawfectPubSubWaits in docs/runbooks.md. This one does not know of pauses: half an hour into one (pawfect controls) it comes, and means nothing. It comes also when the cluster itself, and so Prometheus, is gone."
  }
}

# The service answers 503 to what waits for an engine, so single ones are its way of working; none but them is not.
resource "google_monitoring_alert_policy" "refused_pushes" {
  display_name          = "Pawfect: pushes are refused"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = local.channels

  conditions {
    display_name = "Over 90 % of pushes were not acknowledged, for 30 minutes"
    condition_threshold {
      filter             = "${local.push_responses} AND metric.labels.response_class != \"ack\""
      denominator_filter = local.push_responses
      comparison         = "COMPARISON_GT"
      threshold_value    = 0.9
      duration           = "1800s"
      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_SUM"
        group_by_fields      = ["resource.label.subscription_id"]
      }
      denominator_aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_SUM"
        group_by_fields      = ["resource.label.subscription_id"]
      }
    }
  }
  # 401, 403: account or audience. Such an answer is never right, and none comes while all is well.
  conditions {
    display_name = "Pushes are answered 4xx, or reach nobody"
    condition_threshold {
      filter          = "${local.push_responses} AND metric.labels.response_class = one_of(\"remote_server_4xx\", \"unreachable\")"
      comparison      = "COMPARISON_GT"
      threshold_value = 5
      duration        = "0s"
      aggregations {
        alignment_period     = "600s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_SUM"
        group_by_fields      = ["resource.label.subscription_id", "metric.label.response_class"]
      }
    }
  }
  documentation {
    content = "PawfectPubSubWaits in docs/runbooks.md; while consumption is paused all pushes are refused on purpose."
  }
}

resource "google_monitoring_alert_policy" "dead_letters" {
  display_name          = "Pawfect: dead letters lie unread"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = local.channels

  conditions {
    display_name = "Over 20 letters wait for somebody to look at them"
    condition_threshold {
      filter          = local.unreplayed
      comparison      = "COMPARISON_GT"
      threshold_value = 20
      duration        = "300s"
      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }
  documentation {
    content = "PawfectDeadLetters in docs/runbooks.md. Letters are gone after 31 days."
  }
}

resource "google_monitoring_uptime_check_config" "health" {
  display_name = "Pawfect: health"
  timeout      = "10s"
  period       = "60s"

  http_check {
    path         = "/health"
    port         = 443
    use_ssl      = true
    validate_ssl = true
  }
  monitored_resource {
    type   = "uptime_url"
    labels = { project_id = var.project_id, host = var.hostname }
  }
  depends_on = [google_project_service.enabled]
}

resource "google_monitoring_alert_policy" "not_reachable" {
  display_name          = "Pawfect: not reachable"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = local.channels

  conditions {
    display_name = "/health has failed from several places for 5 minutes"
    condition_threshold {
      filter          = local.of_uptime_check
      comparison      = "COMPARISON_GT"
      threshold_value = 1
      duration        = "300s"
      aggregations {
        alignment_period     = "120s"
        per_series_aligner   = "ALIGN_NEXT_OLDER"
        cross_series_reducer = "REDUCE_COUNT_FALSE"
        group_by_fields      = ["resource.label.host"]
      }
    }
  }
  documentation {
    content = "PawfectNotSeen in docs/runbooks.md; then DNS, certificate (gcloud certificate-manager certificates describe pawfect) and Gateway."
  }
}

# Pods then wait for nodes; Prometheus sees the wait (PawfectNoReadyReplica), not the reason.
resource "google_monitoring_alert_policy" "no_capacity" {
  display_name          = "Pawfect: no machines to be had"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = local.channels

  conditions {
    display_name = "The cluster's autoscaler was refused a machine"
    condition_matched_log {
      filter = join(" AND ", [
        "resource.type = \"k8s_cluster\"",
        "resource.labels.cluster_name = \"${google_container_cluster.this.name}\"",
        "log_id(\"container.googleapis.com/cluster-autoscaler-visibility\")",
        "jsonPayload.resultInfo.results.errorMsg.messageId =~ \"scale.up.error.(out.of.resources|quota.exceeded)\"",
      ])
    }
  }
  alert_strategy {
    auto_close = "3600s"
    notification_rate_limit {
      period = "3600s"
    }
  }
  documentation {
    content = "PawfectNoReadyReplica in docs/runbooks.md. Spot ones are refused now and then; the pool l4 takes over."
  }
}
