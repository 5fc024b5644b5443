"""Tiny ONNX networks for tests, written as the bytes of the format, so that no package for making them is needed.

Field numbers are those of onnx.proto (ModelProto, GraphProto, NodeProto, ValueInfoProto).
"""

from __future__ import annotations

from pathlib import Path

FLOAT, INT64 = 1, 7  # TensorProto.DataType


def write_network(
    path: Path,
    shape: tuple[int, ...] = (1, 3, 320, 320),
    *,
    operators: tuple[str, ...] = ("Identity",),
    kind: int = FLOAT,
) -> Path:
    """A file whose outputs are `operators`, each of the mean over the input's channels: [1, 1, H, W]."""
    nodes = [_node("ReduceMean", "photo", "mean", _field(1, b"axes") + _integers(8, [1]) + _number(20, 7))]
    nodes += [_node(name, "mean", f"out{index}") for index, name in enumerate(operators)]
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"tiny") + _field(11, _value("photo", shape, kind))
    for index in range(len(operators)):
        graph += _field(12, _value(f"out{index}", None, kind))
    path.write_bytes(_number(1, 8) + _field(7, graph) + _field(8, _number(2, 13)))
    return path


def _node(operator: str, source: str, target: str, attribute: bytes = b"") -> bytes:
    node = _field(1, source.encode()) + _field(2, target.encode()) + _field(4, operator.encode())
    return node + (_field(5, attribute) if attribute else b"")


def _value(name: str, shape: tuple[int, ...] | None, kind: int) -> bytes:
    tensor = _number(1, kind)
    if shape is not None:
        tensor += _field(2, b"".join(_field(1, _number(1, size)) for size in shape))
    return _field(1, name.encode()) + _field(2, _field(1, tensor))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _integers(number: int, values: list[int]) -> bytes:
    return b"".join(_number(number, value) for value in values)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
