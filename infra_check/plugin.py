"""A provider that has the real one's schema and makes nothing: with it Terraform itself validates and plans `infra/`.

`python -m infra_check.plugin NAME` is started by Terraform as its plugin of that name, google or google-beta. What the
real provider would only know after creating something (an e-mail, an id) is made up, in the real one's form where
others are built of it, so that a plan has no unknown value. Checked are names, nesting, types, what is required, and
the values that an attribute may have where the provider's documentation lists them; not what only Google's API knows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import grpc
import msgpack

from infra_check.made_up import make_up
from infra_check.plugin_messages import METHODS, PACKAGE, make_messages
from infra_check.schema import AttributeType, BlockType, ProviderSchema, load_schema

NESTINGS = {"single": 1, "list": 2, "set": 3}
PROVIDER_BLOCK = BlockType(
    attributes={
        name: AttributeType(kind, required=False, optional=True, computed=False)
        for name, kind in {
            "project": '"string"',
            "region": '"string"',
            "billing_project": '"string"',
            "user_project_override": '"bool"',
            "default_labels": '["map","string"]',
        }.items()
    },
    blocks={},
)
"""Of the provider's own settings, those that are used here; the bindings that the schema is derived from lack them."""
ERROR = 1

Message = Any


class Provider:
    """Answers Terraform's calls; `messages` are the classes of `plugin_messages`."""

    def __init__(
        self, name: str, schema: ProviderSchema, messages: Mapping[str, Any], stop: Callable[[], None]
    ) -> None:
        self._resources = {kind: block for kind, block in schema.resources.items() if schema.providers[kind] == name}
        self._data = schema.data if name == "google" else {}
        self._messages = messages
        self._project = ""
        self._stop = stop

    def GetSchema(self, _request: Message) -> Message:  # noqa: N802
        make = self._messages["NamedSchema"]
        return self._messages["SchemaResponse"](
            provider=self._describe(PROVIDER_BLOCK),
            resource_schemas=[make(key=name, value=self._describe(block)) for name, block in self._resources.items()],
            data_source_schemas=[make(key=name, value=self._describe(block)) for name, block in self._data.items()],
        )

    def PrepareProviderConfig(self, request: Message) -> Message:  # noqa: N802
        return self._messages["PreparedResponse"](prepared_config=request.config)

    def Configure(self, request: Message) -> Message:  # noqa: N802
        self._project = str(unpack(request.config)["project"])
        return self._messages["DiagnosticsResponse"]()

    def ValidateResourceTypeConfig(self, request: Message) -> Message:  # noqa: N802
        wrong = find_wrong_values(self._resources[request.type_name], unpack(request.config))
        make = self._messages["Diagnostic"]
        diagnostics = [make(severity=ERROR, summary=f"{request.type_name}: {sentence}") for sentence in wrong]
        return self._messages["DiagnosticsResponse"](diagnostics=diagnostics)

    def ValidateDataSourceConfig(self, _request: Message) -> Message:  # noqa: N802
        return self._messages["DiagnosticsResponse"]()

    def PlanResourceChange(self, request: Message) -> Message:  # noqa: N802
        """Of a creation: there is never a state."""
        planned = make_up(
            request.type_name, self._resources[request.type_name], unpack(request.proposed_new_state), self._project
        )
        return self._messages["PlanResponse"](planned_state=self._pack(planned))

    def ReadDataSource(self, request: Message) -> Message:  # noqa: N802
        state = make_up(request.type_name, self._data[request.type_name], unpack(request.config), self._project)
        return self._messages["DataResponse"](state=self._pack(state))

    def Stop(self, _request: Message) -> Message:  # noqa: N802
        self._stop()
        return self._messages["Empty"]()

    def _describe(self, block: BlockType) -> Message:
        return self._messages["Schema"](block=self._describe_block(block))

    def _describe_block(self, block: BlockType) -> Message:
        attribute, nested = self._messages["Attribute"], self._messages["NestedBlock"]
        return self._messages["BlockSchema"](
            attributes=[
                attribute(
                    name=name,
                    type=kind.type.encode(),
                    required=kind.required,
                    optional=kind.optional,
                    computed=kind.computed,
                )
                for name, kind in block.attributes.items()
            ],
            block_types=[
                nested(
                    type_name=name,
                    block=self._describe_block(inner),
                    nesting=NESTINGS[inner.nesting],
                    min_items=0 if inner.nesting == "single" else inner.min,
                    max_items=0 if inner.nesting == "single" else inner.max or 0,
                )
                for name, inner in block.blocks.items()
            ],
        )

    def _pack(self, value: Any) -> Message:
        return self._messages["DynamicValue"](msgpack=msgpack.packb(value))


def unpack(value: Message) -> Any:
    """A value as Python has it; an unknown one is an ExtType."""
    return msgpack.unpackb(value.msgpack, raw=False, strict_map_key=False)


def find_wrong_values(block: BlockType, value: Any, place: str = "") -> list[str]:
    """One sentence for each attribute with a value that is none of those its documentation lists."""
    if not isinstance(value, Mapping):
        return []
    wrong = [
        f"{place}{name} is {value[name]!r}; it may be {', '.join(kind.values)}"
        for name, kind in block.attributes.items()
        if kind.values and isinstance(value.get(name), str) and value[name] not in kind.values
    ]
    for name, inner in block.blocks.items():
        items = value.get(name)
        for item in items if isinstance(items, list) else [items]:
            wrong += find_wrong_values(inner, item, f"{place}{name}.")
    return wrong


def serve(name: str) -> None:
    """Until Terraform says Stop or ends this process. The first line of output is the handshake it waits for."""
    messages, stopped = make_messages(), Event()
    provider = Provider(name, load_schema(), messages, stopped.set)
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            _ignoring_context(getattr(provider, method)),
            messages[request].FromString,
            messages[answer].SerializeToString,
        )
        for method, (request, answer) in METHODS.items()
    }
    shut_down = {"Shutdown": handlers["Stop"]}  # how Terraform ends a plugin; one that does not answer costs it 2 s
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)])
    services = {f"{PACKAGE}.Provider": handlers, "plugin.GRPCController": shut_down}
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(service, methods) for service, methods in services.items())
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"1|5|tcp|127.0.0.1:{port}|grpc", flush=True)
    stopped.wait()
    server.stop(1).wait()


def _ignoring_context(answer: Callable[[Message], Message]) -> Callable[[Message, grpc.ServicerContext], Message]:
    return lambda request, _context: answer(request)


if __name__ == "__main__":
    serve(sys.argv[1])
