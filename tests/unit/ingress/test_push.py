"""Envelopes and their data: what is refused, and with which words."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress import push
from serve_app.errors import InvalidEnvelope, InvalidMessage
from serve_app.jobs.exhaustion import find_session
from serve_app.jobs.model import Priority, Session


def encode(data: Any) -> str:
    return base64.b64encode(json.dumps(data).encode()).decode()


def make_push(data: str) -> push.Push:
    return push.Push("m1", 5.0, data, {"origin": "app"})


def test_a_push_becomes_an_order() -> None:
    body = json.dumps(
        {
            "message": {
                "messageId": "m1",
                "publishTime": "2026-11-20T05:00:00.123456789Z",
                "data": encode(
                    {"userId": "u", "sessionId": "s", "quality": "draft", "seed": 3, "priority": "urgent", "new": 1}
                ),
                "attributes": {"origin": "app"},
            },
            "subscription": "projects/p/subscriptions/s",
            "deliveryAttempt": 2,
        }
    ).encode()
    opened = push.open_envelope(body)
    order = push.read_order(opened)
    assert (order.session, order.delivery, order.seed) == (Session("u", "s"), "m1", 3)
    assert (order.quality, order.priority, order.prompt, order.steps) == ("draft", Priority.URGENT, None, None)
    assert order.published_at == pytest.approx(1795150800.123456)
    assert json.loads(base64.b64decode(order.message))["new"] == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b"{}",
        b'{"message": 1}',
        b'{"message": {}}',
        b'{"message": {"data": "e30="}}',
        b'{"message": {"data": 3, "messageId": "1"}}',
        b'{"message": {"messageId": ""}}',
        b"\xff\xfe\x00",
        b'{"message": ' * 2000,
    ],
)
def test_what_is_no_envelope_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidEnvelope, match="not a Pub/Sub push envelope"):
        push.open_envelope(body)


BAD_IDS = ["", "a" * 129, "a/b", "..", "a b", "ä", "a\n", 7, None, [], {"a": 1}]


@pytest.mark.parametrize("bad", BAD_IDS, ids=repr)
@pytest.mark.parametrize("name", ["userId", "sessionId"])
def test_a_bad_id_is_named(name: str, bad: object) -> None:
    data = {"userId": "u", "sessionId": "s", name: bad}
    with pytest.raises(InvalidMessage, match=name):
        push.read_order(make_push(encode(data)))
    assert find_session(encode(data)) is None


@pytest.mark.parametrize("name", ["userId", "sessionId"])
def test_a_missing_id_is_named(name: str) -> None:
    data = {"userId": "u", "sessionId": "s"}
    del data[name]
    with pytest.raises(InvalidMessage, match=name):
        push.read_order(make_push(encode(data)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", "not base64 of JSON"),
        ("!!!", "not base64 of JSON"),
        (base64.b64encode(b"\xff\xfe").decode(), "not base64 of JSON"),
        (base64.b64encode(b"{").decode(), "not base64 of JSON"),
        (base64.b64encode(b"[" * 40_000).decode(), "not base64 of JSON"),
        (base64.b64encode(b"[" * 60_000).decode(), "at most 65536 are accepted"),
        (encode([1]), "JSON list"),
        (encode("text"), "JSON str"),
    ],
)
def test_data_that_is_no_object_is_refused(data: str, words: str) -> None:
    with pytest.raises(InvalidMessage, match=words):
        push.read_order(make_push(data))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 10_000),
        ("steps", "many"),
        ("guidance_scale", -1),
        ("guidance_scale", float("nan")),
        ("guidance_scale", float("inf")),
        ("seed", -1),
        ("seed", 2**63),
        ("prompt", ""),
        ("prompt", "x" * 2001),
        ("priority", "now"),
        ("quality", ""),
    ],
)
def test_a_bad_parameter_is_named_and_its_session_found(name: str, value: object) -> None:
    refused = make_push(encode({"userId": "u", "sessionId": "s", name: value}))
    with pytest.raises(InvalidMessage, match=name):
        push.read_order(refused)
    assert find_session(refused.data) == Session("u", "s")


def test_a_refusal_keeps_the_reason_and_the_original_data() -> None:
    letter = push.describe_refusal(make_push("!!!"), InvalidMessage("no good"), 7.0)
    assert (letter.id, letter.at, letter.reason, letter.message) == ("push-m1", 7.0, "invalid_message", "no good")
    assert (letter.data, letter.attributes) == ("!!!", {"origin": "app", "messageId": "m1"})


def test_a_refusal_keeps_large_data_whole() -> None:
    data = encode({"userId": "u", "sessionId": "s", "padding": "x" * 100_000})
    with pytest.raises(InvalidMessage, match="at most 65536"):
        push.read_order(make_push(data))
    assert push.describe_refusal(make_push(data), InvalidMessage("no good"), 7.0).data == data


@given(st.binary(max_size=200))
def test_any_bytes_are_an_envelope_or_refused(body: bytes) -> None:
    with pytest.raises(InvalidEnvelope):
        push.open_envelope(body)


@given(
    st.one_of(
        st.text(max_size=50),
        st.binary(max_size=50).map(lambda raw: base64.b64encode(raw).decode()),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["userId", "x"]), inner),
        ).map(encode),
    )
)
def test_any_data_is_an_order_or_refused(data: str) -> None:
    with pytest.raises(InvalidMessage):
        push.read_order(make_push(data))


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-13-01T00:00:00Z"])
def test_a_time_that_cannot_be_read_costs_only_the_measurement(text: str | None) -> None:
    message = {"messageId": "m", "data": encode({"userId": "u", "sessionId": "s"}), "publishTime": text}
    assert push.open_envelope(json.dumps({"message": message}).encode()).published_at is None
