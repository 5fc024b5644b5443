"""The messages of Terraform's plugin protocol, version 5, as far as `plugin` speaks it.

Field numbers are the protocol's, https://developer.hashicorp.com/terraform/plugin/terraform-plugin-protocol. The
classes are made from the table below; there is no generated code.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "tfplugin5"

_DYNAMIC, _DIAGNOSTICS = "DynamicValue", "repeated Diagnostic"
MESSAGES: dict[str, tuple[tuple[int, str, str], ...]] = {
    "DynamicValue": ((1, "msgpack", "bytes"), (2, "json", "bytes")),
    "Diagnostic": ((1, "severity", "int32"), (2, "summary", "string"), (3, "detail", "string")),
    "Attribute": (
        (1, "name", "string"),
        (2, "type", "bytes"),
        (4, "required", "bool"),
        (5, "optional", "bool"),
        (6, "computed", "bool"),
    ),
    "NestedBlock": (
        (1, "type_name", "string"),
        (2, "block", "BlockSchema"),
        (3, "nesting", "int32"),
        (4, "min_items", "int64"),
        (5, "max_items", "int64"),
    ),
    "BlockSchema": ((2, "attributes", "repeated Attribute"), (3, "block_types", "repeated NestedBlock")),
    "Schema": ((1, "version", "int64"), (2, "block", "BlockSchema")),
    "NamedSchema": ((1, "key", "string"), (2, "value", "Schema")),  # an entry of a map, as it is on the wire
    "Empty": (),
    "SchemaResponse": (
        (1, "provider", "Schema"),
        (2, "resource_schemas", "repeated NamedSchema"),
        (3, "data_source_schemas", "repeated NamedSchema"),
        (4, "diagnostics", _DIAGNOSTICS),
    ),
    "ConfigRequest": ((1, "config", _DYNAMIC),),
    "PreparedResponse": ((1, "prepared_config", _DYNAMIC), (2, "diagnostics", _DIAGNOSTICS)),
    "ConfigureRequest": ((1, "terraform_version", "string"), (2, "config", _DYNAMIC)),
    "TypedConfigRequest": ((1, "type_name", "string"), (2, "config", _DYNAMIC)),
    "DiagnosticsResponse": ((1, "diagnostics", _DIAGNOSTICS),),
    "PlanRequest": (
        (1, "type_name", "string"),
        (2, "prior_state", _DYNAMIC),
        (3, "proposed_new_state", _DYNAMIC),
        (4, "config", _DYNAMIC),
    ),
    "PlanResponse": ((1, "planned_state", _DYNAMIC), (4, "diagnostics", _DIAGNOSTICS)),
    "DataResponse": ((1, "state", _DYNAMIC), (2, "diagnostics", _DIAGNOSTICS)),
}
METHODS = {
    "GetSchema": ("Empty", "SchemaResponse"),
    "PrepareProviderConfig": ("ConfigRequest", "PreparedResponse"),
    "ValidateResourceTypeConfig": ("TypedConfigRequest", "DiagnosticsResponse"),
    "ValidateDataSourceConfig": ("TypedConfigRequest", "DiagnosticsResponse"),
    "Configure": ("ConfigureRequest", "DiagnosticsResponse"),
    "PlanResourceChange": ("PlanRequest", "PlanResponse"),
    "ReadDataSource": ("TypedConfigRequest", "DataResponse"),
    "Stop": ("Empty", "Empty"),
}
"""Of the service Provider: request and response. Names of messages are ours, they are not on the wire."""

_SCALARS = {"string": 9, "bytes": 12, "bool": 8, "int32": 5, "int64": 3}
_MESSAGE, _OPTIONAL, _REPEATED = 11, 1, 3


def make_messages() -> dict[str, Any]:
    """Each message's class by its name."""
    file = descriptor_pb2.FileDescriptorProto(name="tfplugin5.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            bare = kind.removeprefix("repeated ")
            label = _REPEATED if kind != bare else _OPTIONAL
            made = message.field.add(name=field, number=number, label=label, type=_SCALARS.get(bare, _MESSAGE))
            if bare not in _SCALARS:
                made.type_name = f".{PACKAGE}.{bare}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES}
