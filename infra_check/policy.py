"""Rules of ours that no provider knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from infra_check.configuration import Block, Configuration
from infra_check.expressions import find_literals, read_literal

KEYS = {
    "google_service_account_key": "a key of an account, which would lie in the state; use Workload Identity",
    "google_storage_hmac_key": "a key of an account, which would lie in the state",
    "google_secret_manager_secret_version": "a secret's value, which would lie in the state; add versions by hand",
}
PUBLIC = ("allUsers", "allAuthenticatedUsers")
"""Nothing here is meant for everybody: the load balancer is the way in."""
BASIC_ROLES = ("roles/owner", "roles/editor", "roles/viewer")
_AUTHORITATIVE = re.compile(r"_iam_(policy|binding)$")
_PROJECT = re.compile(r"(projects/(?!_/)|@)[a-z][a-z0-9-]{5,29}(/|\.iam\.gserviceaccount)")
BUCKET_RULES = {"uniform_bucket_level_access": "true", "public_access_prevention": "enforced"}


def check_policy(configuration: Configuration) -> Iterator[str]:
    for block in configuration.top:
        for rule in _RULES.get(block.kind, ()):
            yield from (f"infra/{block.file}: {block.address or block.kind}: {sentence}" for sentence in rule(block))


def _refuse_types(block: Block) -> Iterator[str]:
    if block.labels[0] in KEYS:
        yield KEYS[block.labels[0]]
    if _AUTHORITATIVE.search(block.labels[0]):
        yield "it takes away what others were granted; use the _iam_member type"


def _refuse_words(block: Block) -> Iterator[str]:
    for expression in block.expressions():
        for text in find_literals(expression):
            if any(word in text for word in PUBLIC):
                yield f"{text} is everybody"
            if text in BASIC_ROLES:
                yield f"{text} is a basic role, which may do far more than is needed"
            if _PROJECT.search(text):
                yield f'"{text}" names a project; use var.project_id'


def _refuse_projects(block: Block) -> Iterator[str]:
    for one in _with_inner(block):
        for name in ("project", "project_id", "billing_account"):
            if name in one.attributes and (text := read_literal(one.attributes[name])) is not None:
                yield f'{name} = "{text}" is one project\'s; use a variable'


def _close_buckets(block: Block) -> Iterator[str]:
    if block.labels[0] == "google_storage_bucket":
        for name, wanted in BUCKET_RULES.items():
            if name not in block.attributes or read_literal(block.attributes[name]) != wanted:
                yield f"{name} must be {wanted}"


def _describe(block: Block) -> Iterator[str]:
    if "description" not in block.attributes:
        yield "no description"


def _validate(block: Block) -> Iterator[str]:
    if "type" not in block.attributes:
        yield "no type"
    elif read_literal(block.attributes["type"]) != "bool" and not any(one.kind == "validation" for one in block.inner):
        yield "no validation"


def _with_inner(block: Block) -> Iterator[Block]:
    yield block
    for one in block.inner:
        yield from _with_inner(one)


Rule = Callable[[Block], Iterator[str]]
_RULES: dict[str, tuple[Rule, ...]] = {
    "resource": (_refuse_types, _refuse_words, _refuse_projects, _close_buckets),
    "data": (_refuse_words, _refuse_projects),
    "locals": (_refuse_words,),
    "provider": (_refuse_projects,),
    "output": (_describe, _refuse_words),
    "variable": (_describe, _validate),
}
