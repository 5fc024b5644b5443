"""A version into the cluster: look first, remember what runs, apply, wait, verify; and back if it does not serve."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delivery.cluster import SERVICE, Cluster, Conflict, connect
from delivery.errors import DeliveryError, Unverified
from delivery.images import is_in_registry, split_reference
from delivery.rendering import Rendered, list_images, render
from delivery.revisions import DIRTY
from delivery.rollout import Patience, Say, wait
from delivery.weights import make_job, run_job

REDIS_SECRET = "pawfect-redis"  # noqa: S105
KEYS_SECRET = "pawfect-keys"  # noqa: S105
"""Of callers with API keys (README); without rows, as it is made here, there are none."""
NOW, BEFORE = "pawfect.dev/image", "pawfect.dev/previous-image"
"""Annotations of the RayService."""

PASSWORD_BYTES = 32

DONE, TAKEN_BACK, BROKEN, UNVERIFIED = 0, 1, 2, 3
"""Exit statuses; TAKEN_BACK is also that of everything refused before it began, UNVERIFIED of what stays as it is."""

Document = dict[str, Any]
Verify = Callable[[str], str]
"""Given the version; why it was not edited, or ''. Raises DeliveryError, and Unverified for what is to stay."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted. `tag` is an image's; `values` are those of project.env; `force` takes over others' fields."""

    root: Path
    overlay: str
    tag: str
    values: Mapping[str, str]
    context: str | None = None
    force: bool = False
    fill_weights: bool = False
    patience: Patience = field(default_factory=Patience)
    weights_patience: Patience = field(default_factory=lambda: Patience(timeout_s=7200.0))


@dataclass(frozen=True, slots=True)
class Before:
    """What ran: its image, the one before that, and the documents that bring it back; nothing where nothing ran."""

    image: str | None = None
    earlier: str | None = None
    documents: list[Document] = field(default_factory=list)


def deploy(order: Order, verify: Verify | None, say: Say) -> int:
    """The exit status. Raises DeliveryError for what is refused before the service was touched."""
    wanted = render(order.root, order.overlay, order.tag, order.values)
    cluster = connect(order.context, wanted.namespace)
    say(f"context {cluster.context}, cluster {cluster.server}, namespace {cluster.namespace}: {wanted.image}")
    before = _look(order, cluster, wanted, say)
    _prepare(cluster, wanted, order.force, say)
    _rehearse(cluster, wanted.everything, order.force, say)
    if order.fill_weights:
        cluster.apply(wanted.early, force=order.force)
        for cron_job in wanted.cron_jobs:
            run_job(cluster, make_job(cron_job), order.weights_patience, say)
    try:
        for line in cluster.apply(_annotate(wanted, before), force=order.force):
            say(f"  {line}")
        wait(cluster, wanted.name, wanted.image, order.patience, say)
        remark = "it was not verified" if verify is None else verify(order.tag)
    except Unverified as error:
        say(f"NOT VERIFIED: {error.message}")
        say(f"{wanted.image} serves and stays; nothing is taken back")
        return UNVERIFIED
    except DeliveryError as error:
        say(f"FAILED: {error.message}")
        return _restore(order, cluster, wanted, before, say)
    say(f"{wanted.image} serves" + (f"; {remark}" if remark else ""))
    return DONE


def find_previous(context: str | None, name: str, namespace: str) -> str:
    """The tag of what ran before what runs now. Raises DeliveryError when the cluster does not know."""
    live = connect(context, namespace).find(SERVICE, name)
    image = ((live or {"metadata": {}})["metadata"].get("annotations") or {}).get(BEFORE)
    if not image:
        raise DeliveryError(f"RayService {name} does not say what ran before it; name a tag with --tag.")
    return split_reference(image)[1]


def _look(order: Order, cluster: Cluster, wanted: Rendered, say: Say) -> Before:
    """Everything that can be known before anything is changed."""
    if not cluster.has_service_api():
        raise DeliveryError(
            f"The cluster of context {cluster.context} has no RayService v1 (ray.io): install KubeRay 1.7 first."
        )
    known = is_in_registry(wanted.image)
    if known is False:
        raise DeliveryError(f"{wanted.image} is not in the registry; `python -m delivery build --push` makes it.")
    if known is None:
        say("whether the registry has the image cannot be told from here")
    live = cluster.find(SERVICE, wanted.name)
    images = list_images(live, split_reference(wanted.image)[0]) if live else []
    if live is None or not images:
        say("nothing runs yet: should this fail, there is nothing to go back to")
        return Before()
    say(f"now runs {images[0]}")
    earlier = (live["metadata"].get("annotations") or {}).get(BEFORE)
    documents = _find_way_back(order, live, images[0], images[0] == wanted.image, say)
    return Before(images[0], earlier, [_note(document, images[0], earlier) for document in documents])


def _find_way_back(order: Order, live: Document, image: str, is_same: bool, say: Say) -> list[Document]:
    """The manifests of what runs, at its own commit. Where that is the wanted one, or not to be had, the live
    RayService as it is."""
    tag = split_reference(image)[1]
    try:
        if tag.endswith(DIRTY):
            raise DeliveryError(f"{tag} was built of files that were never committed")
        if not is_same:
            return render(order.root, order.overlay, tag, order.values).everything
    except DeliveryError as error:
        say(f"the manifests of what runs cannot be had, so its live RayService is kept: {error.message}")
    kept = {key: copy.deepcopy(live[key]) for key in ("apiVersion", "kind", "spec")}
    meta = live["metadata"]
    kept["metadata"] = {key: meta[key] for key in ("name", "namespace", "labels", "annotations") if key in meta}
    return [kept]


def _rehearse(cluster: Cluster, documents: list[Document], force: bool, say: Say) -> None:
    """Have the server check everything. Raises Conflict unless others' fields are to be taken over; then says whose."""
    try:
        cluster.apply(documents, dry_run=True)
    except Conflict as conflict:
        if not force:
            raise
        say(f"taken over: {conflict.owners}")
        cluster.apply(documents, dry_run=True, force=True)


def _prepare(cluster: Cluster, wanted: Rendered, force: bool, say: Say) -> None:
    """The namespace and the Secrets, which the rest needs to be there; neither touches what runs."""
    spaces = [item for item in wanted.others if item["kind"] == "Namespace"]
    _rehearse(cluster, spaces, force, say)
    cluster.apply(spaces, force=force)
    if not spaces and cluster.find("namespace", cluster.namespace) is None:
        raise DeliveryError(f"There is no namespace {cluster.namespace}, and the overlay does not make it.")
    if cluster.create_secret(REDIS_SECRET, {"password": secrets.token_urlsafe(PASSWORD_BYTES)}):
        say(f"Secret {REDIS_SECRET} made, with a random password")
    if cluster.create_secret(KEYS_SECRET, {"keys.json": "[]"}):
        say(f"Secret {KEYS_SECRET} made, without any API key")


def _annotate(wanted: Rendered, before: Before) -> list[Document]:
    """The documents, with what runs and what ran before noted on the RayService."""
    earlier = before.earlier if before.image == wanted.image else before.image
    return [*wanted.others, _note(wanted.service, wanted.image, earlier)]


def _note(document: Document, image: str, earlier: str | None) -> Document:
    """A RayService with its annotations: what is applied without them loses them. Its spec stays as it is, so that
    they start no rollout. Other documents stay as they are."""
    if document["kind"] != "RayService":
        return document
    document = copy.deepcopy(document)
    notes = document["metadata"].setdefault("annotations", {})
    notes[NOW] = image
    if earlier:
        notes[BEFORE] = earlier
    return document


def _restore(order: Order, cluster: Cluster, wanted: Rendered, before: Before, say: Say) -> int:
    if before.image is None:
        say("Nothing ran before, so there is nothing to go back to. What was applied is left for you to look at.")
        return BROKEN
    say(f"back to {before.image} …")
    try:
        cluster.apply(before.documents, force=True)
        wait(cluster, wanted.name, before.image, order.patience, say)
    except DeliveryError as error:
        say(f"GOING BACK FAILED, TOO: {error.message} Look at the cluster now.")
        return BROKEN
    say(f"{wanted.image} does not serve. {before.image}, which ran before, serves again.")
    return TAKEN_BACK
