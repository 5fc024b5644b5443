"""Published prices and limits, each with where it stands and when it was looked up there. US dollars, us-east4.

The date is that of the look-up, in stored copies of the pages. A fact without a source is an assumption, and the page
says so. Spot prices change up to once a day.
"""

from __future__ import annotations

from dataclasses import dataclass

LOOKED_UP = "2026-11-20"
CATALOG = "github.com/skypilot-org/skypilot-catalog, catalogs/v8/gcp/vms.csv"
"""A machine-written copy of Google's price list; `2 ×` a g2-standard-4, as vCPUs and memory double."""


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    value: float
    unit: str
    source: str = ""

    @property
    def where(self) -> str:
        return self.source or "assumed"


# -- machines ------------------------------------------------------------------------------------------------------

L4_HOUR = Fact("g2-standard-8 (one L4), on demand", 2 * 0.14631 + 0.55821, "$/h", CATALOG)
L4_SPOT_HOUR = Fact("g2-standard-8, Spot", 2 * 0.05851 + 0.2233, "$/h", CATALOG)
SYSTEM_HOUR = Fact("e2-standard-4", 0.13402 * 1.1263, "$/h", "list price of us-central1 × 1.126, as its N2")
CPU_HOUR = Fact("e2-standard-8", 2 * SYSTEM_HOUR.value, "$/h", "twice an e2-standard-4")
CLUSTER_HOUR = Fact("GKE, a regional cluster's management", 0.10, "$/h", "cloud.google.com/kubernetes-engine/pricing")
BALANCER_HOUR = Fact("forwarding rules, up to five", 0.025, "$/h", "cloud.google.com/load-balancing/pricing")
BALANCER_GIB = Fact("data through the load balancer", 0.008, "$/GiB", "cloud.google.com/load-balancing/pricing")
NAT_HOUR = Fact("Cloud NAT, one address", 0.005, "$/h", "cloud.google.com/nat/pricing; $0.0014 more for each node")
DISK_GIB_MONTH = Fact("pd-balanced", 0.11, "$/GiB and month")
SAMPLES_MILLION = Fact(
    "Managed Prometheus, 10⁶ samples", 0.06, "$", "cloud.google.com/stackdriver/pricing, first 50 · 10⁹ a month"
)

# -- services ------------------------------------------------------------------------------------------------------

_FIRESTORE = "firebase.google.com/docs/firestore/pricing, multi-region; a region costs about half"
READS = Fact("Firestore reads, 100,000", 0.06, "$", _FIRESTORE)
WRITES = Fact("Firestore writes, 100,000", 0.18, "$", _FIRESTORE)
DELETES = Fact("Firestore deletes, 100,000", 0.02, "$", _FIRESTORE)
CLASS_A = Fact("Cloud Storage class A, 1,000", 0.005, "$", "cloud.google.com/storage/pricing-examples")
CLASS_B = Fact("Cloud Storage class B, 1,000", 0.0004, "$", "cloud.google.com/storage/pricing-examples")
STORED_GB_MONTH = Fact("Cloud Storage, Standard", 0.023, "$/GB and month", "cloud.google.com/storage/pricing")
PUBSUB_TIB = Fact("Pub/Sub, 1,000 bytes a request at least", 40.0, "$/TiB", "cloud.google.com/pubsub/pricing")
EGRESS_GIB = Fact("results to the internet", 0.12, "$/GiB", "cloud.google.com/storage/pricing-examples")

PRICES = (
    L4_HOUR, L4_SPOT_HOUR, SYSTEM_HOUR, CPU_HOUR, CLUSTER_HOUR, BALANCER_HOUR, BALANCER_GIB, NAT_HOUR, DISK_GIB_MONTH,
    SAMPLES_MILLION, READS, WRITES, DELETES, CLASS_A, CLASS_B, STORED_GB_MONTH, PUBSUB_TIB, EGRESS_GIB,
)  # fmt: skip

# -- limits --------------------------------------------------------------------------------------------------------

L4_QUOTA = Fact(
    "L4s of a new project", 0, "GPUs", "GPUS_ALL_REGIONS is 0, whatever NVIDIA_L4_GPUS says; seen in many projects"
)
FIRESTORE_WRITES = Fact(
    "writes into an index whose values only grow", 500, "1/s", "cloud.google.com/firestore/quotas, soft limits"
)
STORAGE_WRITES = Fact("object writes, at first", 1000, "1/s", "cloud.google.com/storage/docs/request-rate; it grows")
STORAGE_READS = Fact("object reads, at first", 5000, "1/s", "cloud.google.com/storage/docs/request-rate; it grows")
SIGNATURES = Fact("signBlob, 60,000 a minute", 1000, "1/s", "docs.cloud.google.com/iam/quotas")
PUSH_WINDOW = Fact(
    "outstanding pushes of a subscription whose answers take over 1 s", 3000, "pushes",
    "docs.cloud.google.com/pubsub/docs/push, per region",
)  # fmt: skip
PUSH_BYTES = Fact(
    "push throughput of a large region", 20_000, "kB/s", "cloud.google.com/pubsub/quotas; us-east4 is smaller"
)

SAMPLES = Fact("samples into Cloud Monitoring", 100_000, "1/s")

# -- the L4 --------------------------------------------------------------------------------------------------------

L4_BF16 = Fact("L4, dense bfloat16", 121.0, "TFLOP/s", "NVIDIA's data sheet: 242 with sparsity")
UTILISATION_LOW = Fact("share of that peak in practice, at worst", 0.30, "")
UTILISATION_HIGH = Fact("share of that peak in practice, at best", 0.60, "")
