"""The command line's verbs and options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

USAGE = 64
"""EX_USAGE of sysexits.h, because 2 means something here."""

Act = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def parse(arguments: list[str] | None, description: str, acts: Mapping[str, Act]) -> argparse.Namespace:
    """The options, with `act` for what the verb does. Ends the program on wrong usage."""
    parser = Parser(
        prog="python -m delivery", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=Parser)
    building = verbs.add_parser("build", help="an image of what is checked out")
    deploying = verbs.add_parser("deploy", help="a version into the cluster; back if it does not serve")
    back = verbs.add_parser("rollback", help="deploy of an older version, by default of the one before")
    checking = verbs.add_parser("verify", help="is the service the wanted version, and does it edit?")
    _add_building(building)
    for verb in (deploying, back):
        _add_rollout(verb)
    checking.add_argument("--version", metavar="SHA", help="that /health must tell of, and the edit be by")
    checking.add_argument("--edit", action="store_true", help="have the sample photo edited")
    for verb in (deploying, back, checking):
        _add_verification(verb)
    for name, verb in zip(
        ("build", "deploy", "rollback", "verify"), (building, deploying, back, checking), strict=True
    ):
        verb.add_argument("--overlay", default="gke-l4", help="folder under k8s/overlays")
        verb.add_argument("--project", type=Path, metavar="FILE", help="in place of the overlay's project.env")
        verb.set_defaults(act=acts[name])
    return parser.parse_args(arguments)


def _add_building(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--tag", help="one more tag, beside the commit's SHA and its release")
    verb.add_argument("--target", choices=("gpu", "cpu"), default="gpu")
    verb.add_argument("--push", action="store_true", help="to the registry that project.env names")
    verb.add_argument("--allow-dirty", action="store_true", help="of uncommitted files, tagged as such")


def _add_rollout(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--tag", help="a commit or release; its manifests are applied with its image")
    verb.add_argument("--context", help="of the kubeconfig; by default the current one")
    verb.add_argument("--timeout", type=float, default=1800, metavar="S", help="for the rollout, without the weights")
    verb.add_argument("--weights", action="store_true", help="fill the weights bucket first, with this version's Job")
    verb.add_argument(
        "--force-conflicts", action="store_true", help="take over fields that others have set; rollback always does"
    )
    verb.add_argument("--no-verify", action="store_true", help="as before the first certificate is there")


def _add_verification(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--url", help="of the service; by default https://HOSTNAME of project.env")
    verb.add_argument("--quality", default="auto", help="of the canary's edit; draft needs no GPU")
    verb.add_argument(
        "--account",
        help="the service account to ask as, by default pawfect-deploy of the project; PAWFECT_TOKEN goes before it",
    )
    verb.add_argument("--audience", help="of the identity token; by default PUSH_AUDIENCE, or the URL")
    verb.add_argument("--wait", type=float, default=300, metavar="S", help="until the load balancer knows the version")
