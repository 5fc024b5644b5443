"""Build, deploy, verify, roll back.

    python -m delivery build [--tag TAG] [--target gpu|cpu] [--push] [--allow-dirty]
    python -m delivery deploy [--tag TAG] [--context CTX] [--overlay gke-l4]
    python -m delivery rollback [--tag TAG]
    python -m delivery verify [--url URL] [--version SHA] [--edit]

Exit status: 0 done; 1 refused or failed, and what ran before runs; 2 failed, and what ran before does not run; 64 wrong
usage; 130 interrupted (a rollout goes on by itself).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from delivery import images, revisions
from delivery.credentials import find_token
from delivery.deployment import TAKEN_BACK, Order, Verify, deploy, find_previous
from delivery.errors import DeliveryError
from delivery.project import FILE, check_values, read_values
from delivery.rendering import FOLDER
from delivery.rollout import Patience
from delivery.verification import Check, verify

ROOT = Path(__file__).resolve().parent.parent
NAME, NAMESPACE = "pawfect", "pawfect"
USAGE, INTERRUPTED = 64, 130
"""EX_USAGE of sysexits.h, because 2 means something here; and what a shell says of SIGINT."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        status: int = options.act(options)
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
    values = _read_project(options)
    tag = options.tag or find_previous(options.context, NAME, NAMESPACE)
    order = _order(options, values, revisions.resolve(ROOT, tag))
    return deploy(order, _choose_verify(options, values), say)


def verify_service(options: argparse.Namespace) -> int:
    _verify(options, {} if options.url else _read_project(options), options.version, options.edit)
    say("The service is well.")
    return 0


def _order(options: argparse.Namespace, values: Mapping[str, str], tag: str) -> Order:
    return Order(
        ROOT, options.overlay, tag, values, options.context, options.force_conflicts, options.weights,
        Patience(timeout_s=options.timeout),
    )  # fmt: skip


def _choose_verify(options: argparse.Namespace, values: Mapping[str, str]) -> Verify | None:
    return None if options.no_verify else lambda version: _verify(options, values, version, is_edit=True)


def _verify(options: argparse.Namespace, values: Mapping[str, str], version: str | None, is_edit: bool) -> None:
    url = options.url or f"https://{values['HOSTNAME']}"
    audience = options.audience or values.get("PUSH_AUDIENCE") or f"{url.rstrip('/')}/"
    token = find_token(url, audience, options.account) if is_edit else None
    say(f"verifying {url} …")
    asyncio.run(verify(Check(url, version, is_edit, options.quality, token, settle_s=options.wait), say))


def _read_project(options: argparse.Namespace) -> dict[str, str]:
    path = options.project or ROOT / FOLDER / "overlays" / options.overlay / FILE
    values = read_values(path)
    check_values(values, path)
    return values


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m delivery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=Parser)
    building = verbs.add_parser("build", help="an image of what is checked out")
    building.add_argument("--tag", help="one more tag, beside the commit's SHA and its release")
    building.add_argument("--target", choices=("gpu", "cpu"), default="gpu")
    building.add_argument("--push", action="store_true", help="to the registry that project.env names")
    building.add_argument("--allow-dirty", action="store_true", help="of uncommitted files, tagged as such")
    building.set_defaults(act=build)
    deploying = verbs.add_parser("deploy", help="a version into the cluster; back if it does not serve")
    deploying.set_defaults(act=deploy_version)
    back = verbs.add_parser("rollback", help="deploy of an older version, by default of the one before")
    back.set_defaults(act=roll_back)
    for verb in (deploying, back):
        verb.add_argument("--tag", help="a commit or release; its manifests are applied with its image")
        verb.add_argument("--context", help="of the kubeconfig; by default the current one")
        verb.add_argument(
            "--timeout", type=float, default=1800, metavar="S", help="for the rollout, without the weights"
        )
        verb.add_argument(
            "--weights", action="store_true", help="fill the weights bucket first, with this version's Job"
        )
        verb.add_argument("--force-conflicts", action="store_true", help="take over fields that others have set")
        verb.add_argument("--no-verify", action="store_true", help="as before the first certificate is there")
    checking = verbs.add_parser("verify", help="is the service the wanted version, and does it edit?")
    checking.add_argument("--version", metavar="SHA", help="that /health must tell of")
    checking.add_argument("--edit", action="store_true", help="have the sample photo edited")
    checking.set_defaults(act=verify_service)
    for verb in (deploying, back, checking):
        verb.add_argument("--url", help="of the service; by default https://HOSTNAME of project.env")
        verb.add_argument("--quality", default="auto", help="of the canary's edit")
        verb.add_argument("--account", help="the service account to ask as; PAWFECT_TOKEN goes before it")
        verb.add_argument("--audience", help="of the identity token; by default PUSH_AUDIENCE, or the URL")
        verb.add_argument(
            "--wait", type=float, default=300, metavar="S", help="until the load balancer knows the version"
        )
    for verb in (building, deploying, back, checking):
        verb.add_argument("--overlay", default="gke-l4", help="folder under k8s/overlays")
        verb.add_argument("--project", type=Path, metavar="FILE", help="in place of the overlay's project.env")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
