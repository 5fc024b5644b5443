"""Whatever is done to a good token, or sent in its place, is not let in and is no defect."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ingress.auth import VerifiedSender
from serve_app.errors import CallerError, KeysUnavailable, Unauthenticated
from tests.tokens import PUSHER, KeyServer
from tests.unit.ingress.guarded import Headers, bear, connect, trust_google

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
LETTERS = st.sampled_from("ABCXYZabcxyz0189-_=. +/~\x00\xe9")


def admit(server: KeyServer, headers: Headers) -> VerifiedSender:
    """A fresh verifier per token, so that none can profit from what another left."""
    return asyncio.run(trust_google(server).verify_sender(connect(headers)))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_mutation_of_a_good_token_is_let_in(key_server: KeyServer, data: st.DataObject) -> None:
    good = PUSHER.token()
    at = data.draw(st.integers(0, len(good)))
    gone = data.draw(st.integers(0, 3))
    mutated = good[:at] + data.draw(st.text(LETTERS, max_size=4)) + good[at + gone :]
    # Spaces between scheme and token belong to neither.
    assume(mutated.lstrip(" ") != good)
    with pytest.raises((Unauthenticated, KeysUnavailable)):
        admit(key_server, bear(mutated))


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(max_codepoint=255), max_size=200), is_bearer=st.booleans())
def test_no_text_in_the_header_is_let_in_or_a_defect(key_server: KeyServer, text: str, is_bearer: bool) -> None:
    with pytest.raises(Unauthenticated):
        admit(key_server, [("Authorization", f"Bearer {text}" if is_bearer else text)])


@settings(max_examples=100, deadline=None)
@given(claim=st.sampled_from(["iss", "aud", "sub", "email", "email_verified", "iat", "exp", "nbf"]), value=ANY_JSON)
def test_no_odd_claim_is_let_in_or_a_defect(key_server: KeyServer, claim: str, value: Any) -> None:
    is_time = claim in ("iat", "exp", "nbf")
    assume(not (is_time and type(value) is int) and not (claim == "sub" and isinstance(value, str) and value))
    assume(not (claim == "email_verified" and value is True))
    with pytest.raises(CallerError):
        admit(key_server, bear(PUSHER.token(**{claim: value})))


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(["alg", "kid", "jwk", "crit", "b64"]), value=ANY_JSON)
def test_no_odd_header_parameter_is_let_in_or_a_defect(key_server: KeyServer, name: str, value: Any) -> None:
    with pytest.raises(Unauthenticated):
        admit(key_server, bear(PUSHER.token(header={name: value})))
