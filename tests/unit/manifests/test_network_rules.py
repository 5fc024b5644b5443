"""What the rules of networks make of more than one policy, and of none."""

from __future__ import annotations

from dataclasses import replace

from manifests.builds import Build
from manifests.environments import read_environment
from manifests.pods import list_groups
from tests.unit.manifests.mistakes import GONE, SERVICE, SETTINGS, both, find, put, spoil


def test_a_pod_that_everybody_reaches(gke: Build) -> None:
    open_build = replace(gke, documents=tuple(each for each in gke.documents if each["kind"] != "NetworkPolicy"))
    covered = [each for each in find(open_build) if each.rule == "network-covered"]
    assert len(covered) == 6  # the head and three groups, Redis, the job that fills the bucket


def test_a_policy_with_ways_out_is_about_them(gke: Build) -> None:
    """Also where it does not say so, as Kubernetes has it."""
    narrow = both(put("spec.policyTypes", GONE), put("spec.egress", [{"ports": [{"port": 443}]}]))
    built = spoil(gke, "NetworkPolicy/identity", narrow)
    documents = tuple(each for each in built.documents if each["metadata"]["name"] != "out")
    sentences = {each.sentence for each in find(replace(built, documents=documents)) if each.rule == "network-out"}
    assert "no NetworkPolicy lets it out on 53/UDP." in sentences
    assert "no NetworkPolicy lets it out on 443/TCP." not in sentences


def test_who_may_go_anywhere_needs_no_way_out(gke: Build) -> None:
    closed = [each for each in gke.documents if "Egress" in each.get("spec", {}).get("policyTypes", [])]
    documents = tuple(each for each in gke.documents if each not in closed)
    network = {each.sentence for each in find(replace(gke, documents=documents)) if each.rule.startswith("network-")}
    assert {sentence for sentence in network if "lets it out" in sentence} == set()


def test_the_operator_asks_a_head_that_serves(gke: Build) -> None:
    closed = spoil(gke, "NetworkPolicy/ray", put("spec.ingress.1.ports", [{"port": 8265}]))
    assert "network-operator" not in {each.rule for each in find(closed)}
    serving = spoil(closed, SERVICE, put("spec.excludeHeadPodFromServeSvc", GONE))
    told = [each.sentence for each in find(serving) if each.rule == "network-operator"]
    assert told == ["no NetworkPolicy lets kuberay-system in on 8000."]


def test_the_component_of_traces_names_its_collector_to_all(traced: Build) -> None:
    (service,) = traced.list_kind("RayService")
    endpoints = {
        read_environment(traced, group.container).get("PAWFECT_TRACING__OTLP_ENDPOINT")
        for group in list_groups(service)
    }
    assert endpoints == {"http://otel-collector.observability:4318"}


def test_a_collector_outside_is_reached_as_the_apis_are(gke: Build) -> None:
    built = spoil(gke, SETTINGS, put("data.PAWFECT_TRACING__OTLP_ENDPOINT", "https://collector.example.net"))
    assert "network-traces" not in {each.rule for each in find(built)}


def test_a_collector_that_is_no_address_is_a_wrong_value(gke: Build) -> None:
    built = spoil(gke, SETTINGS, put("data.PAWFECT_TRACING__OTLP_ENDPOINT", "collector:port"))
    assert {each.rule for each in find(built)} == {"settings-values"}


def test_a_deployment_without_the_way_in(gke: Build) -> None:
    kinds = ("GCPBackendPolicy", "HealthCheckPolicy")
    bare = replace(gke, documents=tuple(each for each in gke.documents if each["kind"] not in kinds))
    assert {each.rule for each in find(bare)} - {each.rule for each in find(gke)} == {
        "gateway-timeout",
        "gateway-health",
    }
