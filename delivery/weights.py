"""Filling the weights bucket: a Job made of the overlay's suspended CronJob, before a version that reads it comes.

A Job's spec cannot be changed, so its name carries a hash of it, image included: beside an older version's it is
another Job. One that has ended is deleted and made again, also a successful one: the bucket may have been emptied
since, and where all files are whole, the program in it has nothing to do.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from delivery.cluster import Cluster
from delivery.errors import DeliveryError
from delivery.rollout import Patience, Say

LINE_S = 60.0
"""A Job tells nothing of its progress; that it runs is said once a minute."""

Document = dict[str, Any]


def make_job(cron_job: Document) -> Document:
    """What the CronJob would start, under a name of its own."""
    template, meta = cron_job["spec"]["jobTemplate"], cron_job["metadata"]
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
    labels = {**meta.get("labels", {}), **template.get("metadata", {}).get("labels", {})}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{meta['name']}-{digest}", "namespace": meta.get("namespace"), "labels": labels},
        "spec": template["spec"],
    }


def run_job(cluster: Cluster, job: Document, patience: Patience, say: Say) -> None:
    """Raises DeliveryError when it fails, or is not done within `patience.timeout_s`."""
    name = str(job["metadata"]["name"])
    live = cluster.find("job", name)
    if live is not None and (ended := next((end for end in ("Complete", "Failed") if _read(live, end)), "")):
        say(f"Job {name} ran before and is {ended}; it is deleted and made again")
        cluster.delete("job", name)
        live = None
    if live is None:
        cluster.apply([job])
    say(f"Job {name} runs, and the new version waits for it …")
    _wait(cluster, name, patience, say)


def _wait(cluster: Cluster, name: str, patience: Patience, say: Say) -> None:
    started = said = time.monotonic()
    while True:
        live = cluster.find("job", name)
        now = time.monotonic()
        if live is None:
            raise DeliveryError(f"Job {name} is gone; somebody has deleted it. The service was not touched.")
        if _read(live, "Complete"):
            say(f"Job {name} is done after {now - started:.0f} s")
            return
        if failure := _read(live, "Failed"):
            raise DeliveryError(
                f"Job {name} failed: {failure}. `kubectl -n {cluster.namespace} logs job/{name}` says more. The "
                "service was not touched."
            )
        if now - started >= patience.timeout_s:
            raise DeliveryError(
                f"Job {name} is not done after {now - started:.0f} s. It goes on; deploy again when it is done. The "
                "service was not touched."
            )
        if now - said >= LINE_S:
            say(f"  {now - started:5.0f} s  {live.get('status', {}).get('active', 0)} pod(s) of Job {name} at work")
            said = now
        time.sleep(patience.poll_s)


def _read(job: Document, condition: str) -> str:
    """Why a Job has a condition, or '' when it has not."""
    for item in (job.get("status") or {}).get("conditions") or []:
        if item["type"] == condition and item["status"] == "True":
            return ": ".join(filter(None, (item.get("reason"), item.get("message")))) or condition
    return ""
