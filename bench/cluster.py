"""The manifests of `k8s/overlays/gke-l4` on real Ray: head and groups as pods of this machine, made as KubeRay makes
them, with GCS fault tolerance by a real Redis and Google's emulators instead of Google.

Changed is only what must differ here: FLUX is tiny and computes on the CPU (Ray counts an L4 that is not there), the
emulators' addresses, and pushes without a token, which the emulator does not sign. Not here: Kubernetes itself, the
operator, its autoscaler (pods are started by hand where it would), GCS FUSE, the gateway.

Prints one JSON line last. Wants root for namespaces of its own, in which it starts itself again.

- `ready_s`: from the first pod's start until every pod is ready by KubeRay's own probes and the application runs;
- `ingress_pods`: pods with an Ingress, which a gateway would choose from;
- `probes_failed`, `metrics_failed`: pods whose probe or metrics port does not answer as they should;
- `health_check_ok`: the command of a worker's init container, with that container's environment;
- `edited`: of SESSIONS published sessions, those with an edited photo; `edit_s` until the last;
- `spot_end_s`: from SIGTERM to the end of the Spot pod; `spot_runs`, `spot_crashes`: runs of the job it was on, and
  those of them that ended without a word; `spot_elsewhere_s`: from SIGTERM until the job had ended on another pod;
  `spot_failed`: 1 if it did not complete;
- `tuned_s`: until a changed user_config is in force; `tuned_new_replicas`: replicas that were not there before;
- `head_unanswered_s`: the longest time without an answer by a worker's proxy while the head is away and comes back;
  `head_failed_requests`, `head_requests`; `head_running_s`: from the new head's start until it says RUNNING;
  `head_lost_replicas`: replicas of before that are not there any more; `head_edited`: of two sessions, published while
  there is no head and afterwards, those that completed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx

from bench.cluster_trial import SESSIONS, Trial
from bench.kuberay import CLUSTER, render
from bench.pod_cluster import Cluster
from bench.pods import GATEWAY, ROOT, PodNetwork, find_missing
from bench.report import report
from delivery.project import FILE, read_values
from pawfect.emulators import Emulators
from pawfect.emulators import find_missing as find_missing_emulators
from serve_app.settings import Settings
from serve_app.settings_sections import GoogleSettings

OVERLAY = ROOT / "k8s" / "overlays" / "gke-l4"
TOOLS = ("ip", "unshare", "nsenter", "kubectl", "redis-server", "wget")
AT_LEAST = {
    "start": {"health_check_ok": 1},
    "edit": {"edited": SESSIONS},
    "tune": {"tuned_completed": 1},
    "lose_spot": {"spot_runs": 2},
    "lose_head": {"head_edited": 2},
}
AT_MOST = {
    "start": {"probes_failed": 0, "metrics_failed": 0},
    "tune": {"tuned_new_replicas": 0},
    "lose_spot": {"spot_failed": 0, "spot_crashes": 0},
}
STABLE_HEAD_AT_MOST = {"head_lost_replicas": 0, "head_failed_requests": 0}
HEAD_ADDRESS = "10.66.0.200"
"""Of the head's service, where it has an address; by default KubeRay's is headless, and its name leads to the pod."""
STEPS = (*AT_LEAST,)
"""In this order, any of them left out but the first."""


def start_redis(folder: Path, password: str) -> subprocess.Popen[bytes]:
    """With the words of the StatefulSet that say how it keeps its data."""
    folder.mkdir()
    (folder / "redis.conf").write_text(f"requirepass {password}\nbind {GATEWAY}\n")
    words = ["redis-server", str(folder / "redis.conf"), "--dir", str(folder), "--appendonly", "yes"]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([*words, "--appendfsync", "everysec"], stdout=log, stderr=subprocess.STDOUT)


def read_project() -> tuple[str, str]:
    """The project and the photos bucket that the pods are told of; the app's backend, played here, uses the same."""
    values = read_values(OVERLAY / FILE)
    return values["PROJECT_ID"], values["PHOTOS_BUCKET"]


async def run(folder: Path, steps: Sequence[str], head_address: str | None) -> dict[str, float]:
    password, token = secrets.token_hex(16), secrets.token_hex(32)
    folder.chmod(0o755)
    from bench.weights_bucket import make_weights  # torch

    weights, keys = make_weights(folder / "weights"), folder / "keys"
    keys.mkdir()
    (keys / "keys.json").write_text("[]")
    manifests = render(OVERLAY, {"pawfect-redis": {"password": password}, CLUSTER: {"auth_token": token}})
    network = PodNetwork(folder / "pods", {"csi": weights, "pawfect-keys": keys})
    project, bucket = read_project()
    with network, Emulators(folder, project=project, host=GATEWAY) as emulators:
        redis = start_redis(folder / "redis", password)
        try:
            os.environ.update(emulators.environment())
            network.services["redis.pawfect.svc.cluster.local"] = GATEWAY
            changes = {
                **emulators.environment(),
                "PAWFECT_FLUX__DEVICE": "cpu",
                "PAWFECT_GOOGLE__PUSH_AUDIENCE": "",
                "PAWFECT_GOOGLE__PUSH_ACCOUNT": "",
                "PAWFECT_DATA_DIR": "/cache/data",  # beside emulators links are signed with a key of our own
            }
            settings = Settings(env="gcp", project_id=project, google=GoogleSettings(bucket=bucket))
            config = manifests.read_serve_config()
            async with httpx.AsyncClient(trust_env=False) as http:
                trial = Trial(
                    Cluster(network, manifests, changes, token, http, head_address),
                    settings,
                    config,
                )
                try:
                    await trial.run(steps)
                except Exception:
                    for name in network.list_running():
                        print(f"== {name}\n{network.read_log(name)[-3000:]}", file=sys.stderr)
                    print(trial.figures, file=sys.stderr)
                    raise
                return trial.figures
        finally:
            redis.terminate()
            redis.wait()


def find_reason() -> str | None:
    """Why it cannot run here; None when it can."""
    return find_missing(TOOLS) or find_missing_emulators()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description="The manifests on real Ray.")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="default: all")
    parser.add_argument("--stable-head", action="store_true", help="the head's name has an address that outlives it")
    parser.add_argument("--folder", type=Path, help="where logs stay; default: a temporary one")
    options = parser.parse_args()
    if (reason := find_reason()) is not None:
        print(reason, file=sys.stderr)
        return 2
    if not options.inside:
        # Whatever ends this process ends all that it started, too.
        isolate = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*isolate, sys.executable, "-m", "bench.cluster", "--inside", *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode
    with tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True) as temporary:
        head_address = HEAD_ADDRESS if options.stable_head else None
        figures = asyncio.run(run(options.folder or Path(temporary), options.steps, head_address))
    at_least = {name: bound for step in options.steps for name, bound in AT_LEAST[step].items()}
    at_most = {name: bound for step in options.steps for name, bound in AT_MOST.get(step, {}).items()}
    if options.stable_head and "lose_head" in options.steps:
        at_most |= STABLE_HEAD_AT_MOST
    return report(figures, at_least=at_least, at_most=at_most)


if __name__ == "__main__":
    sys.exit(main())
