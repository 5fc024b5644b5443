"""As much of a Kubernetes API server as kubectl needs to apply this project's manifests, with a KubeRay that follows a
script. kubectl itself is the real one."""

from __future__ import annotations

import copy
import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import yaml

Document = dict[str, Any]

KINDS = {
    "v1": ["Namespace", "ServiceAccount", "ConfigMap", "Secret", "Service", "Pod"],
    "apps/v1": ["StatefulSet", "Deployment"],
    "batch/v1": ["CronJob", "Job"],
    "policy/v1": ["PodDisruptionBudget"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "gateway.networking.k8s.io/v1": ["Gateway", "HTTPRoute"],
    "networking.gke.io/v1": ["GCPBackendPolicy", "HealthCheckPolicy"],
    "monitoring.googleapis.com/v1": ["PodMonitoring", "Rules"],
    "ray.io/v1": ["RayService", "RayCluster"],
}
PLURALS = {
    kind: f"{kind.lower()[:-1]}ies" if kind.endswith("y") else kind.lower().removesuffix("s") + "s"
    for kinds in KINDS.values()
    for kind in kinds
}
Key = tuple[str, str]
"""A plural and a name; everything is in one namespace."""


class FakeCluster:
    """`sick`: image tags whose application fails; `foreign`: fields that somebody else has set, by their path."""

    def __init__(self) -> None:
        self.objects: dict[Key, Document] = {}
        self.applied: list[tuple[Key, bool]] = []
        self.sick: set[str] = set()
        self.foreign: dict[Key, dict[tuple[str, ...], Any]] = {}
        self.has_kuberay = True
        self.job_conditions = [{"type": "Complete", "status": "True"}]
        self.refused: set[str] = set()
        self._looks = 0
        self._names = itertools.count(1)

    # -- what kubectl asks ---------------------------------------------------------------------------------------------

    def discover(self, path: str) -> Document | None:
        groups = {version: kinds for version, kinds in KINDS.items() if self.has_kuberay or version != "ray.io/v1"}
        pages: dict[str, Document] = {
            "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.4"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [_group(version) for version in groups if "/" in version],
            },
            "/openapi/v3": {
                "paths": {_root(v)[1:]: {"serverRelativeURL": f"/openapi/v3{_root(v)}?h=1"} for v in groups}
            },
        }
        for version, kinds in groups.items():
            resources = [_resource(kind) for kind in kinds]
            paths = {f"/{kind}": _operation(version, kind) for kind in kinds}
            pages[_root(version)] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
            pages[f"/openapi/v3{_root(version)}"] = {"openapi": "3.0.0", "info": {}, "paths": paths}
        return pages.get(path)

    def get(self, key: Key) -> Document | None:
        found = self.objects.get(key)
        if found is not None and key[0] == "rayservices":
            self._look(found)
        if found is not None and key[0] == "jobs":
            found["status"] = {"conditions": self.job_conditions}
        return found

    def apply(self, key: Key, document: Document, *, is_dry: bool, is_forced: bool) -> tuple[int, Document]:
        if key[0] in self.refused:
            return 422, _status(422, "Invalid", f"{key[0]} {key[1]} is invalid: spec.x: no")
        for path, value in self.foreign.get(key, {}).items():
            if _dig(document, path) not in (None, value) and not is_forced:
                told = f'conflict with "kubectl-edit" using {document["apiVersion"]}: .{".".join(path)}'
                return 409, _status(409, "Conflict", f"Apply failed with 1 conflict: {told}", told)
        self.applied.append((key, is_dry))
        if is_dry:
            return 200, document
        before = self.objects.get(key)
        generation = (before or {"metadata": {"generation": 0}})["metadata"].get("generation", 1)
        document = copy.deepcopy(document)
        is_changed = before is None or before.get("spec") != document.get("spec")
        document["metadata"] |= {"generation": generation + is_changed, "uid": f"uid-{key[1]}", "resourceVersion": "1"}
        if before is not None and "status" in before:
            document["status"] = before["status"]
        if is_changed and key[0] == "rayservices":
            self._looks = 0
        self.objects[key] = document
        return 200 if before else 201, document

    # -- KubeRay -------------------------------------------------------------------------------------------------------

    def _look(self, service: Document) -> None:
        """What KubeRay has done by the time of the next look: nothing, a second cluster, the switch to it."""
        self._looks += 1
        status = service.setdefault("status", {"observedGeneration": 0})
        config = service["spec"]["rayClusterConfig"]
        image = config["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
        active = (status.get("activeServiceStatus") or {}).get("rayClusterName")
        is_new = active is None or self.objects["rayclusters", active]["spec"] != config
        if self._looks == 1:
            return
        status["observedGeneration"] = service["metadata"]["generation"]
        if not is_new:
            status |= {"pendingServiceStatus": {}, "conditions": _conditions(ready=True, upgrading=False)}
        elif image.rpartition(":")[2] in self.sick:
            status["pendingServiceStatus"] = _serving("pawfect-bad", "DEPLOY_FAILED", "No module named 'nose'")
            status["conditions"] = _conditions(ready=active is not None, upgrading=True)
            self.objects["pods", "pawfect-bad-head"] = _crashing_pod()
        elif self._looks == 2:
            status["pendingServiceStatus"] = _serving("pawfect-next", "DEPLOYING", "")
            status["conditions"] = _conditions(ready=active is not None, upgrading=True)
        else:
            name = f"pawfect-{next(self._names)}"
            self.objects["rayclusters", name] = {
                "apiVersion": "ray.io/v1",
                "kind": "RayCluster",
                "metadata": {"name": name},
                "spec": copy.deepcopy(config),
            }
            status |= {"activeServiceStatus": _serving(name, "RUNNING", ""), "pendingServiceStatus": {}}
            status["conditions"] = _conditions(ready=True, upgrading=False)


class Handler(BaseHTTPRequestHandler):
    cluster: ClassVar[FakeCluster]
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet, or each answer waits 40 ms for an acknowledgement

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        url = urlsplit(self.path)
        status, document = self._answer(url.path, parse_qs(url.query), body.decode())
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        """That this server shares itself out: else kubectl would ask it no more than five times a second."""
        self.send_response(200)
        self.send_header("X-Kubernetes-PF-FlowSchema-UID", "1")
        self.end_headers()

    def _answer(self, path: str, query: dict[str, list[str]], body: str) -> tuple[int, Document]:
        if (found := self.cluster.discover(path)) is not None:
            return 200, found
        words = path.strip("/").split("/")
        words = words[2:] if words[0] == "api" else words[3:]
        if words[:1] == ["namespaces"] and len(words) > 2:
            words = words[2:]
        plural, name = [*words, "", ""][:2]
        if plural not in PLURALS.values() or (not self.cluster.has_kuberay and plural.startswith("ray")):
            return 404, _status(404, "NotFound", "the server could not find the requested resource")
        return self._act((plural, name), query, body) or (404, _status(404, "NotFound", f'{plural} "{name}" not found'))

    def _act(self, key: Key, query: dict[str, list[str]], body: str) -> tuple[int, Document] | None:
        """None for an object that is not there."""
        cluster = self.cluster
        if self.command == "PATCH":
            is_dry, is_forced = "dryRun" in query, query.get("force") == ["true"]
            return cluster.apply(key, json.loads(body), is_dry=is_dry, is_forced=is_forced)
        if self.command == "POST":
            document = json.loads(body)
            document["metadata"]["uid"] = "made"
            cluster.objects[key[0], document["metadata"]["name"]] = document
            return 201, document
        if self.command == "DELETE":
            return (200, _status(200, "", "")) if cluster.objects.pop(key, None) else None
        if not key[1]:
            items = [item for (plural, _), item in cluster.objects.items() if plural == key[0]]
            return 200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}
        found = cluster.get(key)
        return None if found is None else (200, found)


class FakeServer:
    """The cluster on a port of its own, and a kubeconfig for it."""

    def __init__(self, folder: Path) -> None:
        self.cluster = FakeCluster()
        handler = type("BoundHandler", (Handler,), {"cluster": self.cluster})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.config = folder / "kubeconfig"
        self.config.write_text(
            yaml.safe_dump({
                "apiVersion": "v1", "kind": "Config", "current-context": "testing",
                "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                "users": [{"name": "someone", "user": {"token": "none"}}],
                "contexts": [{"name": "testing", "context": {"cluster": "fake", "user": "someone"}}],
            })
        )  # fmt: skip

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _group(version: str) -> Document:
    name, _, number = version.partition("/")
    one = {"groupVersion": version, "version": number}
    return {"name": name, "versions": [one], "preferredVersion": one}


def _resource(kind: str) -> Document:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    named = {"name": PLURALS[kind], "singularName": kind.lower(), "kind": kind}
    return {**named, "namespaced": kind != "Namespace", "verbs": verbs}


def _operation(version: str, kind: str) -> Document:
    """That the server checks fields itself: else kubectl would want every schema."""
    group, _, number = version.rpartition("/")
    named = {"group": group, "version": number, "kind": kind}
    parameters = [{"name": "fieldValidation", "in": "query"}, {"name": "dryRun", "in": "query"}]
    return {"patch": {"parameters": parameters, "x-kubernetes-group-version-kind": named, "responses": {}}}


def _status(code: int, reason: str, message: str, cause: str = "") -> Document:
    causes = [{"reason": "FieldManagerConflict", "message": cause, "field": cause.rpartition(": ")[2]}] if cause else []
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" if code == 200 else "Failure",
        "message": message, "reason": reason, "details": {"causes": causes}, "code": code,
    }  # fmt: skip


def _dig(document: Document, path: tuple[str, ...]) -> Any:
    found: Any = document
    for word in path:
        found = (found or {}).get(word)
    return found


def _conditions(*, ready: bool, upgrading: bool) -> list[Document]:
    return [
        {"type": "Ready", "status": str(ready), "reason": "NonZeroServeEndpoints" if ready else "ZeroServeEndpoints"},
        {"type": "UpgradeInProgress", "status": str(upgrading), "reason": "BothActivePendingClustersExist"},
    ]


def _serving(name: str, status: str, message: str) -> Document:
    health = "HEALTHY" if status == "RUNNING" else "UPDATING"
    application = {"status": status, "message": message, "serveDeploymentStatuses": {"Ingress": {"status": health}}}
    return {"rayClusterName": name, "applicationStatuses": {"pawfect": application}}


def _crashing_pod() -> Document:
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting"}}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pawfect-bad-head"},
        "status": {"containerStatuses": [{"name": "ray-head", "state": waiting}]},
    }  # fmt: skip
