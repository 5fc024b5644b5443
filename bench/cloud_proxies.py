"""Proxies between the service and Google's emulators that keep a bill of what goes through, as Google would write it.

Both copy bytes as they are, so what is counted is what was on the wire, whichever library sent it. A caller is told by
the port it comes from.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import uvicorn
from grpc import aio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.cloud_bill import Bill, bill_grpc, bill_push, bill_storage
from pawfect.client import PUSH_S
from pawfect.service_process import find_free_port

HOST = "127.0.0.1"
UNBOUNDED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
"""Of one connection, not of the message (RFC 9110, 7.6.1)."""


class Ledger:
    """Bills by the caller's port, since the start."""

    def __init__(self) -> None:
        self.by_port: defaultdict[int, Bill] = defaultdict(Bill)

    def enter(self, port: int, bill: Bill) -> None:
        self.by_port[port].update(bill)

    def sum(self) -> Bill:
        return sum(self.by_port.values(), Bill())


class GrpcProxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    """For any method: on the wire a single message is a stream of one, so all are forwarded as streams."""

    def __init__(self, target: str, ledger: Ledger) -> None:
        self._channel = aio.insecure_channel(target, options=UNBOUNDED)
        self._server = aio.server(options=UNBOUNDED)
        self._ledger = ledger

    async def start(self) -> int:
        """The port that it listens on."""
        self._server.add_generic_rpc_handlers((self,))
        port = self._server.add_insecure_port(f"{HOST}:0")
        await self._server.start()
        return int(port)

    async def stop(self) -> None:
        await self._server.stop(grace=0)
        await self._channel.close()

    def service(self, handler_call_details: Any) -> Any:
        method: str = handler_call_details.method

        async def forward(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            sent: list[bytes] = []
            answers: list[bytes] = []

            async def note() -> AsyncIterator[bytes]:
                async for request in requests:
                    sent.append(request)
                    yield request

            call = self._channel.stream_stream(method)(
                note(), metadata=context.invocation_metadata(), timeout=context.time_remaining()
            )
            try:
                async for answer in call:
                    answers.append(answer)
                    yield answer
            except aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "", error.trailing_metadata() or ())
            self._ledger.enter(int(context.peer().rpartition(":")[2]), bill_grpc(method, b"".join(sent[:1]), answers))

        return grpc.stream_stream_rpc_method_handler(forward)


class HttpProxy:
    """For Cloud Storage, and for pushes; `target` is an origin such as `http://127.0.0.1:8087`."""

    def __init__(self, target: str, ledger: Ledger, *, pushes: bool = False) -> None:
        self._target = urlsplit(target)
        self._ledger = ledger
        self._pushes = pushes
        self._http = httpx.AsyncClient(timeout=PUSH_S, limits=httpx.Limits(max_connections=None), trust_env=False)
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        app = Starlette(routes=[Route("/{path:path}", self._forward, methods=methods)])
        self.port = find_free_port()
        self._server = uvicorn.Server(
            uvicorn.Config(app, host=HOST, port=self.port, log_level="warning", lifespan="off")
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        if self._task is not None:
            await self._task
        await self._http.aclose()

    async def _forward(self, request: Request) -> Response:
        body = await request.body()
        query = request.scope["query_string"]
        url = httpx.URL(
            scheme=self._target.scheme,
            host=self._target.hostname,
            port=self._target.port,
            raw_path=request.scope["raw_path"] + (b"?" + query if query else b""),
        )
        headers = [(name, value) for name, value in request.headers.items() if name not in HOP_HEADERS]
        answer = await self._http.send(
            self._http.build_request(request.method, url, headers=headers, content=body), stream=True
        )
        content = b"".join([chunk async for chunk in answer.aiter_raw()])
        await answer.aclose()
        self._enter(request, body, answer.status_code, len(content))
        kept = {name: value for name, value in answer.headers.items() if name not in HOP_HEADERS}
        return Response(content, answer.status_code, kept)

    def _enter(self, request: Request, body: bytes, status: int, received: int) -> None:
        assert request.client is not None
        if self._pushes:
            bill = bill_push(body)
        else:
            bill = bill_storage(request.method, request.scope["path"], status, len(body), received)
        self._ledger.enter(request.client.port, bill)
