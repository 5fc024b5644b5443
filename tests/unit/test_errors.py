"""The exception tree: every class has a code of its own, and says whose fault it is."""

from __future__ import annotations

import pickle

import pytest

from ingress import image_problems
from serve_app import errors
from serve_app.errors import (
    CallerError,
    Fault,
    PawfectError,
    PermanentError,
    TransientError,
    find_error,
    find_fault,
    walk_errors,
)

TREE = [kind for kind in walk_errors() if kind.__module__ == errors.__name__]
OF_THE_CALLER = {
    "session_missing",
    "object_missing",
    "object_replaced",
    "photo_unreadable",
    "photo_too_large",
    "mask_unreadable",
    "mask_empty",
    "quality_unavailable",
    "headshot_rejected",
    "request_rejected",
}
"""Of those that end a job. Whoever adds a class decides whose it is: what is listed nowhere is the service's."""


def test_the_walk_finds_every_class_once() -> None:
    defined = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PawfectError)}
    assert set(TREE) == defined
    assert len(TREE) == len(defined) > 30


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_class_has_a_code_and_a_fault(kind: type[PawfectError]) -> None:
    assert "code" in vars(kind)
    assert find_error(kind.code) is kind, "two classes have one code"
    if issubclass(kind, CallerError):
        expected = Fault.CALLER
    else:
        expected = Fault.CALLER if kind.code in OF_THE_CALLER else Fault.SERVICE
    assert kind.fault is find_fault(kind.code) is expected


def test_what_is_worth_another_run_is_never_the_callers_fault() -> None:
    assert {kind.fault for kind in walk_errors(TransientError)} == {Fault.SERVICE}
    assert {kind.fault for kind in walk_errors(PermanentError)} == {Fault.CALLER, Fault.SERVICE}


@pytest.mark.parametrize("code", [None, "", "nsfw", "MASK_EMPTY"])
def test_an_unknown_code_is_ours(code: str | None) -> None:
    assert find_error(code) is None
    assert find_fault(code) is Fault.SERVICE


def test_a_class_outside_takes_no_code_of_the_tree() -> None:
    assert image_problems.Unsuccessful in set(walk_errors())
    assert find_error(image_problems.Unsuccessful.code) is PawfectError


def test_they_cross_processes() -> None:
    error = pickle.loads(pickle.dumps(errors.OutOfMemory("full")))  # noqa: S301
    assert (type(error), error.message, error.code) == (errors.OutOfMemory, "full", "out_of_memory")
