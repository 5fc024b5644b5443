"""Pods made of the overlay as it is rendered: their commands, environments and volumes."""

from __future__ import annotations

import shutil

import pytest

from bench.cluster import OVERLAY, read_project
from bench.kuberay import CLUSTER, HEAD_HOST, Manifests, render
from bench.pod_names import answer

SECRETS = {"pawfect-redis": {"password": "for-redis"}, CLUSTER: {"auth_token": "for-ray"}}


@pytest.fixture(scope="module")
def manifests() -> Manifests:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    return render(OVERLAY, SECRETS)


def test_the_head_starts_without_replicas_and_keeps_what_it_knows_in_redis(manifests: Manifests) -> None:
    head = manifests.make_head("head")
    assert "; ray start --head --block " in head.command
    for flag in ("--num-cpus=0", "--no-monitor", "--metrics-export-port=8080", "--redis-password=$REDIS_PASSWORD"):
        assert flag in head.command.split()
    assert head.environment["RAY_REDIS_ADDRESS"] == "redis:6379"
    assert head.environment["REDIS_PASSWORD"] == "for-redis"
    assert head.mounts["/tmp/ray"] == "emptyDir"  # noqa: S108 - in the pod


@pytest.mark.parametrize("group", ["cpu", "l4-spot", "l4"])
def test_workers_join_the_head_with_the_token_and_the_settings(manifests: Manifests, group: str) -> None:
    pod = manifests.make_worker("worker", group)
    assert f"--address={HEAD_HOST}:6379" in pod.command.split()
    assert pod.environment["RAY_AUTH_MODE"] == "token"
    assert pod.environment["RAY_AUTH_TOKEN"] == "for-ray"
    assert pod.environment["PAWFECT_FLUX__MIRROR"] == "/weights/hub"
    assert pod.environment["RAY_LOG_TO_STDERR"] == "1"
    assert "PAWFECT_FLUX__MIRROR" not in pod.init_environment  # KubeRay copies env to it, not envFrom
    assert pod.init_environment["RAY_AUTH_TOKEN"] == "for-ray"
    assert {path: pod.mounts[path] for path in ("/weights", "/keys", "/tmp")} == {  # noqa: S108 - in the pod
        "/weights": "csi",
        "/keys": "pawfect-keys",
        "/tmp": "emptyDir",  # noqa: S108 - in the pod
    }
    assert pod.user == 10001
    assert pod.read_only


def test_l4_pods_offer_a_gpu_of_their_kind_and_no_cpus(manifests: Manifests) -> None:
    pod = manifests.make_worker("worker", "l4-spot")
    words = pod.command.split("  ")
    assert "--num-gpus=1" in words
    assert "--num-cpus=0" in words
    assert words[-1] == '--resources="{\\"accelerator_type:L4\\": 1}"'


def test_a_pod_drains_within_its_grace(manifests: Manifests) -> None:
    pods = [manifests.make_head("head"), *(manifests.make_worker("w", group) for group in ("cpu", "l4-spot", "l4"))]
    for pod in pods:
        assert float(pod.environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < pod.grace_s


def test_the_trial_uses_the_project_and_the_bucket_that_the_pods_have(manifests: Manifests) -> None:
    """Whatever project is filled in."""
    environment = manifests.make_worker("worker", "cpu").environment
    assert read_project() == (environment["PROJECT_ID"], environment["PAWFECT_GOOGLE__BUCKET"])


def make_query(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return (
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00" + kind.to_bytes(2, "big") + b"\x00\x01"
    )


def test_names_are_answered_with_addresses_as_dns_has_it() -> None:
    query = make_query("head.svc", 1)
    reply = answer(query, {"head.svc": "10.66.0.2"})
    assert reply[:2] == b"\x12\x34"
    assert reply[2:4] == b"\x85\x80"
    assert reply[4:12] == b"\x00\x01\x00\x01\x00\x00\x00\x00"
    assert reply[12 : len(query)] == query[12:]
    assert reply[-6:] == b"\x00\x04\x0a\x42\x00\x02"


@pytest.mark.parametrize(("name", "kind", "code"), [("other.svc", 1, 3), ("head.svc", 28, 0)])
def test_an_unknown_name_does_not_exist_and_a_known_one_has_no_ipv6(name: str, kind: int, code: int) -> None:
    query = make_query(name, kind)
    reply = answer(query, {"head.svc": "10.66.0.2"})
    assert reply[3] & 15 == code
    assert reply[6:8] == b"\x00\x00"
    assert len(reply) == len(query)
