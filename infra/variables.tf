variable "project_id" {
  type        = string
  description = "Google Cloud project; it must exist and have billing."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id is 6 to 30 lower-case letters, digits and hyphens, such as pawfect-prod."
  }
}

variable "region" {
  type        = string
  description = "Region of everything that has one. It must have L4 GPUs, and should be where the app's photos are."
  default     = "us-east4"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region is a region's name, such as us-east4."
  }
}

variable "zones" {
  type        = list(string)
  description = "Zones of the region in which nodes may be; each must have L4 GPUs (gcloud compute accelerator-types list)."
  default     = ["us-east4-a", "us-east4-c"]

  validation {
    condition     = length(var.zones) > 0 && alltrue([for zone in var.zones : startswith(zone, "${var.region}-")])
    error_message = "zones names at least one zone, and only zones of the region."
  }
}

variable "labels" {
  type        = map(string)
  description = "Labels of everything that can have some, for the bill."
  default     = {}

  validation {
    condition     = alltrue([for name, value in var.labels : can(regex("^[a-z][a-z0-9_-]{0,62}$", name)) && can(regex("^[a-z0-9_-]{0,63}$", value))])
    error_message = "labels are lower-case letters, digits, hyphens and underscores; names begin with a letter."
  }
}

variable "deletion_protection" {
  type        = bool
  description = "Whether cluster, database and buckets with photos refuse to be destroyed."
  default     = true
}

variable "hostname" {
  type        = string
  description = "Public name of the service, without scheme; pushes go there."

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.hostname))
    error_message = "hostname is a name such as pawfect.example.com, in lower case, without scheme and path."
  }
}

variable "dns_zone" {
  type        = string
  description = "Managed zone of Cloud DNS in this project that holds hostname; empty: the records are an output, to be made by hand."
  default     = ""

  validation {
    condition     = can(regex("^([a-z]([a-z0-9-]{0,61}[a-z0-9])?)?$", var.dns_zone))
    error_message = "dns_zone is the zone's resource name, such as example-com, or empty."
  }
}

variable "photos_bucket" {
  type        = string
  description = "The app's own bucket with the sessions' photos, which is left as it is; empty: one is created."
  default     = ""

  validation {
    condition     = can(regex("^([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])?$", var.photos_bucket))
    error_message = "photos_bucket is a bucket's name without gs://, such as my-project.firebasestorage.app, or empty."
  }
}

variable "create_database" {
  type        = bool
  description = "Whether the Firestore database is created; false where the app has it already, and only indexes and TTL are added."
  default     = true
}

variable "names" {
  type = object({
    topic                    = optional(string, "session-processing")
    subscription             = optional(string, "session-processing-push")
    headshot_topic           = optional(string, "perkie-headshot-jobs")
    headshot_subscription    = optional(string, "perkie-headshot-worker")
    dead_letter_topic        = optional(string, "session-processing-dead-letter")
    dead_letter_subscription = optional(string, "session-processing-dead-letter-service")
    replay_subscription      = optional(string, "session-processing-dead-letter-replay")
    database                 = optional(string, "(default)")
  })
  description = "Topics, subscriptions and the database. Others than these have to be said to the service, too: PAWFECT_GOOGLE__… in k8s/base/settings.env."
  default     = {}

  validation {
    condition = alltrue([
      for key, name in var.names :
      key == "database" || (can(regex("^[A-Za-z][A-Za-z0-9._~+%-]{2,254}$", name)) && !startswith(name, "goog"))
    ])
    error_message = "Names of topics and subscriptions are 3 to 255 characters, begin with a letter and not with goog."
  }
}

variable "publishers" {
  type        = set(string)
  description = "IAM members that publish sessions and headshots and put headshots' originals, and sessions' photos where photos_bucket is empty: the app's backend."
  default     = []

  validation {
    condition     = alltrue([for member in var.publishers : can(regex("^(serviceAccount|group|principal|principalSet):.+$", member))])
    error_message = "publishers are IAM members such as serviceAccount:backend@my-project.iam.gserviceaccount.com."
  }
}

variable "callers" {
  type        = set(string)
  description = "E-mails of the service accounts that may use the session routes, beside the one that deploys."
  default     = []

  validation {
    condition     = alltrue([for email in var.callers : can(regex("^[^@ ]+@[^@ ]+\\.gserviceaccount\\.com$", email))])
    error_message = "callers are e-mails of service accounts."
  }
}

variable "upload_origins" {
  type        = list(string)
  description = "Web pages that send photos straight to the bucket of originals by an upload link, as scheme://host[:port]."
  default     = []

  validation {
    condition     = alltrue([for origin in var.upload_origins : can(regex("^https?://[a-z0-9.:-]+$", origin))])
    error_message = "upload_origins are sites such as https://app.example.com, without a path and without *."
  }
}

variable "retention_days" {
  type = object({
    jobs    = optional(number, 16) # a job's images: 7 days of result_ttl_s, up to 7 of its deadline, days for the sweep
    outputs = optional(number, 33) # headshots: 30 days of headshots.ttl_s, its deadline, days for the sweep
    uploads = optional(number, 0)  # originals of headshots, whoever put them there; 0: kept, as the service does
  })
  description = "Age in days at which a bucket deletes what the service should have deleted itself; more than its settings say."
  default     = {}

  validation {
    condition     = var.retention_days.jobs >= 15 && var.retention_days.outputs >= 32
    error_message = "retention_days: jobs at least 15 and outputs at least 32, or what still has a record loses its images."
  }
  validation {
    condition     = var.retention_days.uploads == 0 || var.retention_days.uploads >= 32
    error_message = "retention_days.uploads is 0 or at least 32: until then a headshot may still need its original."
  }
}

variable "nodes" {
  type = object({
    system_max      = optional(number, 4)
    cpu_max         = optional(number, 8) # twice the pods: a changed cluster comes up beside the old one
    l4_max          = optional(number, 4)
    l4_spot_max     = optional(number, 4)
    system_machine  = optional(string, "e2-standard-4")
    cpu_machine     = optional(string, "e2-standard-8")
    l4_machine      = optional(string, "g2-standard-8")
    weights_machine = optional(string, "e2-highmem-8")
  })
  description = "Most nodes of each pool in all zones together, and their machines; the quotas of L4s must allow the L4 ones."
  default     = {}

  validation {
    condition     = alltrue([for most in [var.nodes.system_max, var.nodes.cpu_max, var.nodes.l4_max, var.nodes.l4_spot_max] : most >= 1 && most <= 100])
    error_message = "nodes: each pool may have 1 to 100 nodes at most."
  }
  validation {
    condition     = startswith(var.nodes.l4_machine, "g2-standard-")
    error_message = "nodes.l4_machine must be of the g2-standard machines, which are the ones with L4 GPUs."
  }
}

variable "ranges" {
  type = object({
    nodes    = optional(string, "10.10.0.0/20")
    pods     = optional(string, "10.20.0.0/16") # 256 nodes at 110 pods
    services = optional(string, "10.30.0.0/20")
  })
  description = "IP ranges of the network; they meet no other network that is to be connected."
  default     = {}

  validation {
    condition     = alltrue([for range in values(var.ranges) : can(cidrhost(range, 0))])
    error_message = "ranges are in CIDR notation."
  }
}

variable "alert_emails" {
  type        = set(string)
  description = "Who is told of alerts and of the budget."
  default     = []

  validation {
    condition     = alltrue([for email in var.alert_emails : can(regex("^[^@ ]+@[^@ ]+$", email))])
    error_message = "alert_emails are e-mail addresses."
  }
}

variable "notification_channels" {
  type        = set(string)
  description = "Notification channels that exist already (a pager), as projects/PROJECT/notificationChannels/ID."
  default     = []

  validation {
    condition     = alltrue([for channel in var.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[^/]+$", channel))])
    error_message = "notification_channels are full names, projects/PROJECT/notificationChannels/ID."
  }
}

variable "billing_account" {
  type        = string
  description = "Billing account on which the budget is made, as XXXXXX-XXXXXX-XXXXXX; empty: no budget."
  default     = ""

  validation {
    condition     = can(regex("^([0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6})?$", var.billing_account))
    error_message = "billing_account is XXXXXX-XXXXXX-XXXXXX, or empty."
  }
}

variable "budget" {
  type        = number
  description = "What the project may cost in a month, in units of the billing account's currency; people are told, nothing is stopped."
  default     = 1000

  validation {
    condition     = var.budget >= 1 && floor(var.budget) == var.budget
    error_message = "budget is a whole number, at least 1."
  }
}

variable "deployers" {
  type        = set(string)
  description = "People who deploy from their own machine, as user:E-MAIL or group:E-MAIL; they speak as the deploy account."
  default     = []

  validation {
    condition     = alltrue([for member in var.deployers : can(regex("^(user|group|serviceAccount):[^@ ]+@[^@ ]+$", member))])
    error_message = "deployers are members such as user:somebody@example.com."
  }
}

variable "github_repository" {
  type        = string
  description = "Repository whose workflows may deploy, as OWNER/NAME; empty: none."
  default     = ""

  validation {
    condition     = can(regex("^([A-Za-z0-9-]+/[A-Za-z0-9._-]+)?$", var.github_repository))
    error_message = "github_repository is OWNER/NAME, or empty."
  }
}

variable "github_refs" {
  type        = set(string)
  description = "Git refs whose workflows may deploy."
  default     = ["refs/heads/main"]

  validation {
    condition     = length(var.github_refs) > 0 && alltrue([for ref in var.github_refs : can(regex("^refs/(heads|tags)/[A-Za-z0-9._/-]+$", ref))])
    error_message = "github_refs are full refs such as refs/heads/main."
  }
}
