"""The counting proxies: what goes through them comes out as it was, and is entered under its caller's port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import uvicorn
from google.cloud.firestore_v1.types import firestore
from grpc import aio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.cloud_bill import Bill
from bench.cloud_proxies import HOST, GrpcProxy, HttpProxy, Ledger
from pawfect.service_process import find_free_port

METHOD = "/google.firestore.v1.Firestore/BatchGetDocuments"
MISSING = firestore.BatchGetDocumentsResponse.serialize(firestore.BatchGetDocumentsResponse(missing="a"))


class Server(grpc.GenericRpcHandler):
    """Answers `missing` as often as the request has bytes, or with an error."""

    def service(self, handler_call_details: Any) -> Any:
        async def answer(request: bytes, context: Any) -> AsyncIterator[bytes]:
            if request == b"refuse":
                await context.abort(grpc.StatusCode.ABORTED, "changed by others")
            for _ in request:
                yield MISSING

        return grpc.unary_stream_rpc_method_handler(answer)


@pytest.fixture
async def through() -> AsyncIterator[tuple[aio.Channel, Ledger]]:
    server, ledger = aio.server(), Ledger()
    server.add_generic_rpc_handlers((Server(),))
    target = f"{HOST}:{server.add_insecure_port(f'{HOST}:0')}"
    await server.start()
    proxy = GrpcProxy(target, ledger)
    channel = aio.insecure_channel(f"{HOST}:{await proxy.start()}")
    yield channel, ledger
    await channel.close()
    await proxy.stop()
    await server.stop(grace=0)


async def test_answers_pass_and_are_billed(through: tuple[aio.Channel, Ledger]) -> None:
    channel, ledger = through
    assert [answer async for answer in channel.unary_stream(METHOD)(b"abc")] == [MISSING] * 3
    assert ledger.sum() == Bill(firestore_reads=3)
    assert len(ledger.by_port) == 1


async def test_errors_pass_and_are_not_billed(through: tuple[aio.Channel, Ledger]) -> None:
    channel, ledger = through
    with pytest.raises(aio.AioRpcError) as caught:
        _ = [answer async for answer in channel.unary_stream(METHOD)(b"refuse")]
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ABORTED, "changed by others")
    assert ledger.sum() == Bill()


async def echo(request: Request) -> Response:
    path = request.scope["raw_path"].decode() + "?" + request.scope["query_string"].decode()
    return Response(await request.body(), 200, {"X-Path": path, "X-Host": request.headers["host"]})


@pytest.mark.parametrize("is_push", [False, True])
async def test_http_passes_as_it_is(is_push: bool) -> None:
    port, ledger = find_free_port(), Ledger()
    app = Starlette(routes=[Route("/{path:path}", echo, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=port, log_level="warning", lifespan="off"))
    behind = HttpProxy(f"http://{HOST}:{port}", ledger, pushes=is_push)
    task = asyncio.create_task(server.serve())
    await behind.start()
    body = b'{"message": {"data": "YQ=="}}'
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"{behind.url}/upload/b/x%2Fy?name=a%2Fb", content=body)
    assert answer.content == body
    assert answer.headers["X-Path"] == "/upload/b/x%2Fy?name=a%2Fb"  # an object's name has slashes
    assert answer.headers["X-Host"] == behind.url.removeprefix("http://")  # so that links lead through here, too
    await behind.stop()
    server.should_exit = True
    await task
    stored = Bill(storage_class_a=1, storage_bytes_in=len(body), storage_bytes_out=len(body))
    assert ledger.sum() == (Bill(pubsub_requests=1, pubsub_bytes=1000) if is_push else stored)
