"""Build, deploy, verify, roll back.

    python -m delivery build [--tag TAG] [--target gpu|cpu] [--push] [--allow-dirty]
    python -m delivery deploy [--tag TAG] [--context CTX] [--overlay gke-l4]
    python -m delivery rollback [--tag TAG]
    python -m delivery verify [--url URL] [--version SHA] [--edit]

Exit status: 0 done; 1 refused or failed, and what ran before runs; 2 failed, and what ran before does not run; 3 it
serves and stays, but was not verified, because no engine came for the edit in time; 64 wrong usage; 130 interrupted (a
rollout goes on by itself). While consumption is paused nothing is edited, which is said and is no failure.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from delivery import images, revisions
from delivery.arguments import parse
from delivery.check import Check
from delivery.credentials import find_token, name_account
from delivery.deployment import TAKEN_BACK, UNVERIFIED, Order, Verify, deploy, find_previous
from delivery.errors import DeliveryError, Unverified
from delivery.project import FILE, check_values, read_values
from delivery.rendering import FOLDER
from delivery.rollout import Patience
from delivery.verification import verify

ROOT = Path(__file__).resolve().parent.parent
NAME, NAMESPACE = "pawfect", "pawfect"
INTERRUPTED = 130
"""What a shell says of SIGINT."""


def main(arguments: list[str] | None = None) -> int:
    acts = {"build": build, "deploy": deploy_version, "rollback": roll_back, "verify": verify_service}
    options = parse(arguments, __doc__ or "", acts)
    try:
        status: int = options.act(options)
    except Unverified as error:
        say(error.message)
        return UNVERIFIED
    except DeliveryError as error:
        say(error.message)
        return TAKEN_BACK
    except KeyboardInterrupt:
        say("Interrupted. What was applied stays, and a rollout under way goes on.")
        return INTERRUPTED
    return status


def say(line: str) -> None:
    print(line, flush=True)


def build(options: argparse.Namespace) -> int:
    image = _read_project(options)["IMAGE"]
    version = revisions.read_head(ROOT)
    if changes := revisions.list_changes(ROOT):
        told = f"{len(changes)} file(s) are not as committed, such as {changes[0].split(maxsplit=1)[-1]}"
        if not options.allow_dirty:
            raise DeliveryError(f"{told}; commit them, or build with --allow-dirty.")
        version += revisions.DIRTY
        say(f"{told}: the image's version is {version}")
    tags = [version, *([] if changes else revisions.list_releases(ROOT))]
    if options.tag and options.tag not in tags:
        revisions.check_tag(options.tag)
        tags.append(options.tag)
    references = images.name_references(image, tags, options.target)
    builder = images.find_builder()
    identity = images.build(builder, ROOT, references, options.target, version)
    for reference in references:
        told = f"digest {images.push(builder, reference)}" if options.push else f"id {identity}, not pushed"
        say(f"{reference}  {told}")
    return 0


def deploy_version(options: argparse.Namespace) -> int:
    values = _read_project(options)
    tag = revisions.resolve(ROOT, options.tag)
    if options.tag is None and (changes := revisions.list_changes(ROOT, FOLDER)):
        say(f"{len(changes)} file(s) of {FOLDER}/ are not as committed; what is committed is applied, but for {FILE}")
    return deploy(_order(options, values, tag), _choose_verify(options, values), say)


def roll_back(options: argparse.Namespace) -> int:
    """Fields that others have set are taken over: whatever was tried by hand, going back must work."""
    values = _read_project(options)
    tag = options.tag or find_previous(options.context, NAME, NAMESPACE)
    order = replace(_order(options, values, revisions.resolve(ROOT, tag)), force=True)
    return deploy(order, _choose_verify(options, values), say)


def verify_service(options: argparse.Namespace) -> int:
    try:
        values = _read_project(options)
    except DeliveryError:
        if options.url is None:
            raise
        values = {}
    token = _find_token(options, values) if options.edit else None
    say(_verify(options, values, options.version, token, options.edit) or "The service is well.")
    return 0


def _order(options: argparse.Namespace, values: Mapping[str, str], tag: str) -> Order:
    return Order(
        ROOT, options.overlay, tag, values, options.context, options.force_conflicts, options.weights,
        Patience(timeout_s=options.timeout),
    )  # fmt: skip


def _choose_verify(options: argparse.Namespace, values: Mapping[str, str]) -> Verify | None:
    """None if it is not wanted. A token is fetched for nothing but to see that there is one: whoever has none shall
    hear of it before anything is changed."""
    if options.no_verify:
        return None
    try:
        _find_token(options, values)
    except DeliveryError as error:
        raise DeliveryError(f"Nothing was changed. {error.message} --no-verify does without.") from None

    def verify_version(version: str) -> str:
        try:
            token = _find_token(options, values)  # the first one may be too old by now
        except DeliveryError as error:
            raise Unverified(f"not edited: {error.message}") from None
        return _verify(options, values, version, token, is_edit=True)

    return verify_version


def _verify(
    options: argparse.Namespace, values: Mapping[str, str], version: str | None, token: str | None, is_edit: bool
) -> str:
    url = _find_url(options, values)
    say(f"verifying {url} …")
    return asyncio.run(verify(Check(url, version, is_edit, options.quality, token, settle_s=options.wait), say))


def _find_url(options: argparse.Namespace, values: Mapping[str, str]) -> str:
    return str(options.url or f"https://{values['HOSTNAME']}")


def _find_token(options: argparse.Namespace, values: Mapping[str, str]) -> str | None:
    url = _find_url(options, values)
    audience = options.audience or values.get("PUSH_AUDIENCE") or f"{url.rstrip('/')}/"
    return find_token(url, audience, options.account or name_account(values))


def _read_project(options: argparse.Namespace) -> dict[str, str]:
    path = options.project or ROOT / FOLDER / "overlays" / options.overlay / FILE
    values = read_values(path)
    check_values(values, path)
    return values


if __name__ == "__main__":
    sys.exit(main())
