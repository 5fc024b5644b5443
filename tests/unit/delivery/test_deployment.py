"""Deploys with the real kubectl to a cluster that is not there: rollouts, ways back, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from delivery.deployment import BEFORE, BROKEN, DONE, NOW, TAKEN_BACK, UNVERIFIED, deploy, find_previous
from delivery.errors import DeliveryError, Unverified, VerificationFailed
from tests.unit.delivery.conftest import ENV, IMAGE, Clone
from tests.unit.delivery.kubernetes import FakeCluster, FakeServer

SERVICE = ("rayservices", "pawfect")


class Told(list[str]):
    """What was said, and of which versions the service was verified."""

    def __init__(self) -> None:
        super().__init__()
        self.verified: list[str] = []

    def verify(self, version: str) -> str:
        self.verified.append(version)
        return ""

    @property
    def text(self) -> str:
        return "\n".join(self)


@pytest.fixture
def told() -> Told:
    return Told()


def run(clone: Clone, tag: str, told: Told, **options: object) -> int:
    return deploy(clone.order(tag, **options), told.verify, told.append)


def read_notes(cluster: FakeCluster) -> dict[str, str]:
    notes: dict[str, str] = cluster.objects[SERVICE]["metadata"]["annotations"]
    return {name: value.rpartition(":")[2] for name, value in notes.items()}


def read_settings(cluster: FakeCluster) -> dict[str, Any]:
    """Those that the RayService's pods are started with."""
    head = cluster.objects[SERVICE]["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    names = [source["configMapRef"]["name"] for source in head["envFrom"]]
    return {key: value for name in names for key, value in cluster.objects["configmaps", name]["data"].items()}


def list_changed(cluster: FakeCluster) -> list[tuple[str, str]]:
    return [key for key, is_dry in cluster.applied if not is_dry]


def test_a_first_deploy(clone: Clone, server: FakeServer, told: Told) -> None:
    cluster = server.cluster
    assert run(clone, clone.new, told) == DONE
    assert told[0] == f"context testing, cluster {server.url}, namespace pawfect: {IMAGE}:{clone.new}"
    assert told.verified == [clone.new]
    assert read_settings(cluster)["SERVICE_NAME"] == "new"
    assert read_settings(cluster)["PAWFECT_GOOGLE__BUCKET"] == "pets-1234.appspot.com"
    images = str(cluster.objects[SERVICE]["spec"]).count(f"{IMAGE}:{clone.new}")
    assert images == 1 + len(cluster.objects[SERVICE]["spec"]["rayClusterConfig"]["workerGroupSpecs"])
    redis = cluster.objects["statefulsets", "redis"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert redis.startswith("redis:")
    assert read_notes(cluster) == {NOW: clone.new}


def test_secrets_are_made_once_and_never_shown(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    run(clone, clone.old, told)
    password = cluster.objects["secrets", "pawfect-redis"]["stringData"]["password"]
    assert len(password) > 40
    assert cluster.objects["secrets", "pawfect-keys"]["stringData"] == {"keys.json": "[]"}
    run(clone, clone.new, told)
    assert cluster.objects["secrets", "pawfect-redis"]["stringData"]["password"] == password
    assert password not in told.text
    assert told.text.count("Secret pawfect-redis made") == 1


def test_the_next_version_comes_in_steps(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    run(clone, clone.old, told)
    del told[:]
    assert run(clone, clone.new, told) == DONE
    assert f"now runs {IMAGE}:{clone.old}" in told
    assert "KubeRay has not looked at the change yet" in told.text
    assert "new cluster pawfect-next: pawfect is DEPLOYING; Ingress UPDATING" in told.text
    assert read_notes(cluster) == {NOW: clone.new, BEFORE: clone.old}
    assert find_previous(None, "pawfect", "pawfect") == clone.old


def test_a_second_apply_of_the_same_changes_nothing(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    run(clone, clone.old, told)
    run(clone, clone.new, told)
    generation = cluster.objects[SERVICE]["metadata"]["generation"]
    assert run(clone, clone.new, told) == DONE
    assert cluster.objects[SERVICE]["metadata"]["generation"] == generation
    assert read_notes(cluster) == {NOW: clone.new, BEFORE: clone.old}


def test_an_old_version_comes_with_its_own_manifests(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    """But with today's values of the project."""
    env = clone.root / ENV
    env.write_text(env.read_text().replace("pets-1234.appspot.com", "pets-photos"))
    clone.commit("another bucket")
    assert run(clone, clone.old, told) == DONE
    assert read_settings(cluster)["SERVICE_NAME"] == "old"
    assert read_settings(cluster)["PAWFECT_GOOGLE__BUCKET"] == "pets-photos"


def test_what_does_not_come_up_is_taken_back(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    run(clone, clone.old, told)
    cluster.sick.add(clone.new)
    assert run(clone, clone.new, told) == TAKEN_BACK
    assert "FAILED: " in told.text
    assert "pawfect is DEPLOY_FAILED; No module named 'nose'" in told.text
    assert "Pod pawfect-bad-head: CrashLoopBackOff back-off 40s restarting." in told.text
    assert told[-1] == f"{IMAGE}:{clone.new} does not serve. {IMAGE}:{clone.old}, which ran before, serves again."
    assert read_settings(cluster)["SERVICE_NAME"] == "old"
    assert told.verified == [clone.old]


def test_what_runs_but_is_not_well_is_taken_back(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    run(clone, clone.old, told)

    def refuse(version: str) -> str:
        raise VerificationFailed(f"{version} edits nothing.")

    assert deploy(clone.order(clone.new), refuse, told.append) == TAKEN_BACK
    assert f"FAILED: {clone.new} edits nothing." in told
    assert read_settings(cluster)["SERVICE_NAME"] == "old"


def test_what_could_not_be_verified_stays(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    run(clone, clone.old, told)

    def wait(version: str) -> str:
        raise Unverified("not edited: no engine yet.")

    assert deploy(clone.order(clone.new), wait, told.append) == UNVERIFIED
    assert "NOT VERIFIED: not edited: no engine yet." in told
    assert read_settings(cluster)["SERVICE_NAME"] == "new"
    assert read_notes(cluster) == {NOW: clone.new, BEFORE: clone.old}


def test_a_pause_is_said(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    assert deploy(clone.order(clone.new), lambda _: "not edited: paused", told.append) == DONE
    assert told[-1] == f"{IMAGE}:{clone.new} serves; not edited: paused"


def test_after_a_way_back_it_is_still_known_what_ran_before(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    run(clone, clone.old, told)
    run(clone, clone.new, told)
    newest = clone.commit("the newest one")
    cluster.sick.add(newest)
    assert run(clone, newest, told) == TAKEN_BACK
    assert "its live RayService is kept" not in told.text
    assert read_notes(cluster) == {NOW: clone.new, BEFORE: clone.old}
    assert find_previous(None, "pawfect", "pawfect") == clone.old


def test_a_way_back_that_fails_too_is_said(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    run(clone, clone.old, told)
    cluster.sick |= {clone.old, clone.new}
    cluster.objects["rayclusters", "pawfect-1"]["spec"] = {}  # the old one is gone, too
    assert run(clone, clone.new, told) == BROKEN
    assert told[-1].startswith("GOING BACK FAILED, TOO: ")


def test_a_first_deploy_that_fails_has_no_way_back(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    cluster.sick.add(clone.new)
    assert run(clone, clone.new, told) == BROKEN
    assert told[-1].startswith("Nothing ran before")


def test_what_runs_is_kept_where_its_commit_is_unknown(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    run(clone, clone.old, told)
    stranger = "f" * 40
    kept = str(cluster.objects[SERVICE]).replace(clone.old, stranger)
    cluster.objects[SERVICE] = eval(kept)  # noqa: S307
    cluster.objects["rayclusters", "pawfect-1"] = eval(  # noqa: S307
        str(cluster.objects["rayclusters", "pawfect-1"]).replace(clone.old, stranger)
    )
    cluster.sick.add(clone.new)
    assert run(clone, clone.new, told) == TAKEN_BACK
    assert "its live RayService is kept" in told.text
    assert f"{IMAGE}:{stranger}" in str(cluster.objects[SERVICE]["spec"])


def test_a_conflict_changes_nothing(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    run(clone, clone.old, told)
    cluster.foreign[SERVICE] = {("spec", "serveConfigV2"): "by hand"}
    cluster.applied.clear()
    with pytest.raises(DeliveryError, match=r"kubectl-edit has \.spec\.serveConfigV2\. .*--force-conflicts"):
        run(clone, clone.new, told)
    assert set(list_changed(cluster)) <= {("namespaces", "pawfect")}
    assert "taken over" not in told.text
    assert run(clone, clone.new, told, force=True) == DONE
    assert "taken over: kubectl-edit has .spec.serveConfigV2" in told


def test_what_the_server_refuses_changes_nothing(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    cluster.refused.add("healthcheckpolicies")
    with pytest.raises(DeliveryError, match=r"The cluster refuses what would be applied: .*spec\.x: no"):
        run(clone, clone.new, told)
    assert set(list_changed(cluster)) <= {("namespaces", "pawfect")}


def test_a_cluster_without_kuberay(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    cluster.has_kuberay = False
    with pytest.raises(DeliveryError, match="has no RayService v1"):
        run(clone, clone.new, told)
    assert cluster.objects == {}


def test_an_image_that_was_never_pushed(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    clone.registry.write_text("")
    with pytest.raises(DeliveryError, match=f"{clone.old} is not in the registry"):
        run(clone, clone.old, told)
    assert cluster.objects == {}


def test_a_cluster_that_does_not_answer(clone: Clone, server: FakeServer, told: Told) -> None:
    server.config.write_text(server.config.read_text().replace(server.url, "http://127.0.0.1:9"))
    with pytest.raises(DeliveryError, match=r"context testing \(http://127.0.0.1:9\) does not answer"):
        run(clone, clone.new, told)


@pytest.mark.parametrize("context", ["elsewhere", None])
def test_no_such_context(clone: Clone, server: FakeServer, told: Told, context: str | None) -> None:
    server.config.write_text("apiVersion: v1\nkind: Config\n")
    with pytest.raises(DeliveryError, match="context"):
        run(clone, clone.new, told, context=context)


def test_the_bucket_is_filled_first_if_asked(clone: Clone, cluster: FakeCluster, told: Told) -> None:
    assert run(clone, clone.new, told, fill_weights=True) == DONE
    (job,) = [name for plural, name in cluster.objects if plural == "jobs"]
    changed = list_changed(cluster)
    assert changed.index(("jobs", job)) < changed.index(SERVICE)
    container = cluster.objects["jobs", job]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == f"{IMAGE}:{clone.new}"
    cluster.applied.clear()
    run(clone, clone.new, told, fill_weights=True)
    assert f"Job {job} ran before and is Complete; it is deleted and made again" in told
    assert ("jobs", job) in list_changed(cluster), "the bucket may have been emptied since"
    run(clone, clone.old, told, fill_weights=True)
    assert len([name for plural, name in cluster.objects if plural == "jobs"]) == 2


def test_a_bucket_that_cannot_be_filled_ends_it_before_the_service_is_touched(
    clone: Clone, cluster: FakeCluster, told: Told
) -> None:
    cluster.job_conditions = [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]
    with pytest.raises(DeliveryError, match=r"BackoffLimitExceeded.*not touched"):
        run(clone, clone.new, told, fill_weights=True)
    assert SERVICE not in cluster.objects
    cluster.job_conditions = [{"type": "Complete", "status": "True"}]
    assert run(clone, clone.new, told, fill_weights=True) == DONE


def test_placeholders_are_named(clone: Clone, server: FakeServer, told: Told, tmp_path: Path) -> None:
    order = clone.order(clone.new)
    with pytest.raises(DeliveryError, match="still has placeholders: PROJECT_ID=my-project"):
        deploy(
            type(order)(order.root, order.overlay, order.tag, {**order.values, "PROJECT_ID": "my-project"}),
            None,
            told.append,
        )
