"""Writes what of the Kubernetes manifests is generated: an overlay's Serve config and rules.

With `--check` nothing is written; a file that is not up to date is an error. With `--crds DIR` the overlays (all, or
the folders named) are built and checked: against the schemas of DIR and of Kubernetes, and by our rules. With `--rules`
the same without DIR: custom resources are then not checked against their schemas, which is said.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from manifests.pages import OVERLAYS, ROOT, find_stale, make_pages
from serve_app.errors import ConfigurationError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m manifests", description=__doc__)
    parser.add_argument("--check", action="store_true", help="say which generated files are not up to date")
    parser.add_argument("--crds", type=Path, metavar="DIR", help="folder of the custom resource definitions")
    parser.add_argument("--rules", action="store_true", help="check without the custom resource definitions")
    parser.add_argument("folders", type=Path, nargs="*", help="overlays to check; all of them by default")
    given = parser.parse_args()
    try:
        if given.crds or given.rules:
            return lint(given.crds, given.folders)
        return generate(only_check=given.check)
    except ConfigurationError as error:
        print(error.message, file=sys.stderr)
        return 1


def generate(*, only_check: bool) -> int:
    pages = make_pages()
    stale = find_stale(pages)
    for path in stale:
        if only_check:
            print(f"{path.relative_to(ROOT)} is not what serve_config.yaml and its like make; run python -m manifests")
        else:
            path.write_text(pages[path])
    return 1 if only_check and stale else 0


def lint(crds: Path | None, folders: list[Path]) -> int:
    from manifests.builds import build
    from manifests.rulebook import check_rules
    from manifests.schemas import Schemas, read_crds

    if crds is None:
        print("Custom resources are NOT checked against their schemas; --crds DIR does it.")
    schemas = read_crds(crds) if crds is not None else Schemas(only_core=True)
    found = 0
    for folder in folders or find_overlays():
        try:
            built = build(folder)
        except ConfigurationError as error:
            print(error.message, file=sys.stderr)
            found += 1
            continue
        problems = [*schemas.check(built), *check_rules(built)]
        for problem in problems:
            print(f"{folder.name}: {problem}")
        if not problems:
            print(f"{folder.name}: {len(built.documents)} documents, no problem")
        found += len(problems)
    return 1 if found else 0


def find_overlays() -> list[Path]:
    """Raises ConfigurationError where there is none."""
    overlays = sorted(path.parent for path in (ROOT / OVERLAYS).glob("*/kustomization.yaml"))
    if not overlays:
        raise ConfigurationError(f"{OVERLAYS} has no overlay (*/kustomization.yaml).")
    return overlays


if __name__ == "__main__":
    sys.exit(main())
