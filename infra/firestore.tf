locals {
  # The same file that firebase deploy takes; it is written from the code (python -m bench.pages).
  firestore = jsondecode(file("${path.module}/../firestore.indexes.json"))
}

resource "google_firestore_database" "this" {
  count = var.create_database ? 1 : 0

  name                              = var.names.database
  location_id                       = var.region
  type                              = "FIRESTORE_NATIVE"
  point_in_time_recovery_enablement = "POINT_IN_TIME_RECOVERY_ENABLED" # any minute of the past 7 days
  delete_protection_state           = var.deletion_protection ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  deletion_policy                   = var.deletion_protection ? "ABANDON" : "DELETE"
  depends_on                        = [google_project_service.enabled]
}

resource "google_firestore_backup_schedule" "daily" {
  count = var.create_database ? 1 : 0

  database  = google_firestore_database.this[0].name
  retention = "1209600s" # 14 days: beyond point-in-time recovery, for what is noticed late

  daily_recurrence {}
}

resource "google_firestore_index" "jobs" {
  for_each = {
    for index in local.firestore.indexes :
    join(",", concat([index.collectionGroup], [for field in index.fields : "${field.fieldPath} ${field.order}"])) => index
  }

  database    = var.names.database
  collection  = each.value.collectionGroup
  query_scope = each.value.queryScope

  dynamic "fields" {
    for_each = each.value.fields
    content {
      field_path = fields.value.fieldPath
      order      = fields.value.order
    }
  }
  depends_on = [google_firestore_database.this]
}

# The net below the service's own sweep; the field is in no index, its values only grow.
resource "google_firestore_field" "ttl" {
  for_each = { for field in local.firestore.fieldOverrides : "${field.collectionGroup}.${field.fieldPath}" => field if field.ttl }

  database   = var.names.database
  collection = each.value.collectionGroup
  field      = each.value.fieldPath

  ttl_config {}
  index_config {}

  depends_on = [google_firestore_database.this]
}
