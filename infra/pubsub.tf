locals {
  pushes = {
    sessions = {
      topic        = google_pubsub_topic.sessions.id
      subscription = var.names.subscription
      endpoint     = "${local.url}/inpaint"
    }
    headshots = {
      topic        = google_pubsub_topic.headshots.id
      subscription = var.names.headshot_subscription
      endpoint     = "${local.url}/headshot/push"
    }
  }
}

resource "google_pubsub_topic" "sessions" {
  name       = var.names.topic
  depends_on = [google_project_service.enabled]
}

resource "google_pubsub_topic" "headshots" {
  name       = var.names.headshot_topic
  depends_on = [google_project_service.enabled]
}

resource "google_pubsub_topic" "dead_letter" {
  name       = var.names.dead_letter_topic
  depends_on = [google_project_service.enabled]
}

resource "google_pubsub_subscription" "push" {
  for_each = local.pushes

  name  = each.value.subscription
  topic = each.value.topic
  # Also the time that one push may take, and the most there is. The service answers after 570 s at the latest.
  ack_deadline_seconds = 600
  # The service knows what it has done for longer than a message can come again (record_ttl_s).
  message_retention_duration = "604800s"

  push_config {
    push_endpoint = each.value.endpoint

    oidc_token {
      service_account_email = google_service_account.push.email
      audience              = local.audience
    }
  }
  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }
  # The most there is, 15 hours at the least: a push that waits for an engine, or for the end of a pause, is answered
  # 503 and counts. Its job is stored by then and ends by its own deadline; only what never became one is lost.
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letter.id
    max_delivery_attempts = 100
  }
  expiration_policy {
    ttl = "" # never
  }
  depends_on = [google_pubsub_topic_iam_member.agent_publishes_dead_letters]
}

# What Pub/Sub gave up, read by the service, which fails the job and writes a letter of its own.
resource "google_pubsub_subscription" "dead_letter_service" {
  name                       = var.names.dead_letter_subscription
  topic                      = google_pubsub_topic.dead_letter.id
  ack_deadline_seconds       = 60
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = ""
  }
}

# All letters, for people: pawfect.replay shows them and sends them back.
resource "google_pubsub_subscription" "dead_letter_replay" {
  name                       = var.names.replay_subscription
  topic                      = google_pubsub_topic.dead_letter.id
  ack_deadline_seconds       = 60
  message_retention_duration = "2678400s" # 31 days, the most there is

  expiration_policy {
    ttl = ""
  }
}

# Pub/Sub's own account, which sends the pushes and forwards what it gives up. Both roles are needed, else nothing is
# ever forwarded (https://cloud.google.com/pubsub/docs/handling-failures#grant_forwarding_permissions).
resource "google_project_service_identity" "pubsub" {
  provider = google-beta

  service    = "pubsub.googleapis.com"
  depends_on = [google_project_service.enabled]
}

resource "google_pubsub_topic_iam_member" "agent_publishes_dead_letters" {
  topic  = google_pubsub_topic.dead_letter.id
  role   = "roles/pubsub.publisher"
  member = google_project_service_identity.pubsub.member
}

resource "google_pubsub_subscription_iam_member" "agent_acknowledges" {
  for_each = google_pubsub_subscription.push

  subscription = each.value.id
  role         = "roles/pubsub.subscriber"
  member       = google_project_service_identity.pubsub.member
}

# Its role has this since April 2021; for an older project it must be said
# (https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions).
resource "google_service_account_iam_member" "agent_signs_pushes" {
  service_account_id = google_service_account.push.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = google_project_service_identity.pubsub.member
}

resource "google_pubsub_topic_iam_member" "app_publishes" {
  for_each = {
    for pair in setproduct(["sessions", "headshots"], var.publishers) : join(" ", pair) => { kind = pair[0], member = pair[1] }
  }

  topic  = local.pushes[each.value.kind].topic
  role   = "roles/pubsub.publisher"
  member = each.value.member
}
