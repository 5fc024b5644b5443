"""Trace contexts as text, and what is kept of a trace."""

from __future__ import annotations

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span

from serve_app.errors import ConfigurationError
from serve_app.settings import Settings, load_settings
from serve_app.settings_sections import TracingSettings
from serve_app.telemetry import OnceInAWhile
from serve_app.tracing import Tracing, begin, check_traceparent, current_traceparent, open_tracing, read_traceparent
from tests.collector import open_collector
from tests.spans import PARENT, SPAN, TRACE, KeptTracing, show_parent, show_trace

BAD = [
    None,
    "",
    "hello",
    "00",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{TRACE[:-1]}-{SPAN}-01",
    f"00-{TRACE.replace('a', 'g')}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-more",
    f"00-{TRACE}-{SPAN}-0x",
    "00-" + "a" * 100_000,
    "ü" * 55,
]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_traceparent_is_ignored(text: str | None) -> None:
    assert not get_current_span(read_traceparent(text)).get_span_context().is_valid
    assert check_traceparent(text) is None
    tracing = KeptTracing()
    tracing.record("work", text, 1.0, 2.0)
    assert tracing.spans == []
    with begin(tracing.tracer, "request", read_traceparent(text)):
        assert current_traceparent() is not None
    assert show_parent(tracing.find("request")) is None, "it begins a trace of its own"


@given(st.text())
def test_no_text_is_an_error(text: str) -> None:
    assert check_traceparent(text) in (None, text.strip())


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_traceparent_comes_out_as_it_went_in(flags: str) -> None:
    assert check_traceparent(f"00-{TRACE}-{SPAN}-{flags}") == f"00-{TRACE}-{SPAN}-{flags}"
    assert check_traceparent(f"  00-{TRACE}-{SPAN}-{flags} ") == f"00-{TRACE}-{SPAN}-{flags}"


def test_what_an_engine_records_lies_below_its_request() -> None:
    tracing = KeptTracing()
    tracing.record("step", PARENT, 10.25, 10.5, {"pawfect.step": 3})
    tracing.record("step", PARENT[:-2] + "00", 10.25, 10.5)
    (span,) = tracing.spans
    assert (show_trace(span), show_parent(span)) == (TRACE, SPAN)
    assert (span.start_time, span.end_time) == (10_250_000_000, 10_500_000_000)
    assert dict(span.attributes or {}) == {"pawfect.step": 3}


def test_without_an_endpoint_nothing_is_made() -> None:
    tracing = open_tracing(Settings(), "ingress")
    assert not tracing.is_on
    with begin(tracing.tracer, "job") as span:
        assert not span.is_recording()
        assert current_traceparent() is None
    tracing.record("step", PARENT, 1.0, 2.0)
    tracing.close()


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_spans_reach_a_collector_as_they_are_sampled(ratio: float) -> None:
    with open_collector() as collector:
        given_settings = TracingSettings(otlp_endpoint=collector.url + "/", sample_ratio=ratio)
        tracing = open_tracing(Settings(tracing=given_settings, project_id="p1"), "editor")
        with begin(tracing.tracer, "root"):
            pass
        with begin(tracing.tracer, "followed", read_traceparent(PARENT)):
            pass
        with begin(tracing.tracer, "left", read_traceparent(PARENT[:-2] + "00")):
            pass
        tracing.close()
        spans = collector.all()
    assert {span.name for span in spans} == ({"root", "followed"} if ratio else {"followed"})
    resource = spans[0].resource
    assert (resource["service.name"], resource["pawfect.role"], spans[0].role) == ("pawfect", "editor", "editor")
    assert (resource["gcp.project_id"], bool(resource["service.version"])) == ("p1", True)


def test_a_stopping_process_waits_for_no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    tracing, go_on, ended = KeptTracing(), threading.Event(), threading.Event()

    def hang() -> None:
        go_on.wait(30)
        ended.set()

    monkeypatch.setattr("serve_app.tracing.CLOSE_S", 0.05)
    monkeypatch.setattr(tracing._provider, "shutdown", hang)
    tracing.close()
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(30)


def test_a_repeated_complaint_is_shown_once() -> None:
    sieve = OnceInAWhile(logging.WARNING)

    def complain(text: str) -> bool:
        return bool(sieve.filter(logging.LogRecord("opentelemetry.x", logging.ERROR, "", 0, text, ("a",), None)))

    assert [complain("retry %s"), complain("retry %s"), complain("other %s"), complain("retry %s")] == [
        True, False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://c", "http://user:key@collector", "http://c/?key=1"])
def test_an_endpoint_is_an_address_without_secrets(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAWFECT_TRACING__OTLP_ENDPOINT", endpoint)
    with pytest.raises(ConfigurationError, match="PAWFECT_TRACING__OTLP_ENDPOINT"):
        load_settings()


def test_a_tracing_that_was_never_opened_is_off() -> None:
    assert not Tracing().is_on
