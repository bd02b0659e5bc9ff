"""Read a .tflite file and rebuild its graph as a torch module that takes any batch.

The file is a flatbuffer: tables of fields addressed by number (the numbers are those of the
public TensorFlow Lite schema). Tensors of rank 4 are NHWC in the file and NCHW here; constants
stored as float16 become float32 parameters. Only the operators that the face models use are
known; another one is an error that names it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flatbuffers import flexbuffers, number_types
from flatbuffers.table import Table
from torch import fx, nn
from torch.nn import functional as F

from auheat.errors import AuheatError, StoreError
from auheat.landmarks.mesh.attention_ops import RegionFeatures, RegionMatrix, place_points
from auheat.landmarks.mesh.model_files import read_model
from auheat.records import Array

_SAME = 0

_TYPES = {0: np.float32, 1: np.float16, 2: np.int32}

_NCHW = (0, 3, 1, 2)

_NHWC = (0, 2, 3, 1)


class Row:
    """One flatbuffer table; fields are read by their number in the schema."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def scalar(self, number: int, kind: Any = number_types.Int32Flags, default: int = 0) -> int:
        """Return an integer field, or `default` where the file leaves it out."""
        offset = self._table.Offset(4 + 2 * number)
        return int(self._table.Get(kind, self._table.Pos + offset)) if offset else default

    def vector(self, number: int, dtype: Any) -> Array:
        """Return a vector of numbers, empty where absent."""
        offset = self._table.Offset(4 + 2 * number)
        if not offset:
            return np.zeros(0, dtype)
        start, n = self._table.Vector(offset), self._table.VectorLen(offset)
        return np.frombuffer(self._table.Bytes, dtype, n, start)

    def rows(self, number: int) -> list[Row]:
        """Return a vector of tables."""
        offset = self._table.Offset(4 + 2 * number)
        if not offset:
            return []
        start, n = self._table.Vector(offset), self._table.VectorLen(offset)
        at = (start + 4 * i for i in range(n))
        return [Row(Table(self._table.Bytes, self._table.Indirect(a))) for a in at]

    def row(self, number: int) -> Row:
        """Return a table; an absent one reads as all defaults."""
        offset = self._table.Offset(4 + 2 * number)
        if not offset:
            return _EMPTY
        return Row(Table(self._table.Bytes, self._table.Indirect(self._table.Pos + offset)))

    def text(self, number: int) -> str:
        """Return a string, empty where absent."""
        return self.vector(number, np.uint8).tobytes().decode()


_EMPTY = Row(Table(struct.pack("<HHi", 4, 4, 4), 4))  # a table that holds no field


class _Op:
    """One operator while its graph is built: its inputs, outputs, constants and options."""

    def __init__(self, build: _Build, row: Row) -> None:
        self.build = build
        code = build.codes[row.scalar(0, number_types.Uint32Flags)]
        builtin = max(code.scalar(0, number_types.Int8Flags), code.scalar(3))
        self.name = code.text(1) if builtin == 32 else _NAMES.get(builtin, f"builtin {builtin}")
        self.inputs = [int(i) for i in row.vector(1, np.int32)]
        self.outputs = [int(i) for i in row.vector(2, np.int32)]
        self.options = row.row(4)
        self.custom = row.vector(5, np.uint8).tobytes()

    def shape(self, position: int) -> tuple[int, ...]:
        """Return the file's shape of one input (NHWC where it has rank 4)."""
        return self.build.shapes[self.inputs[position]]

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.build.shapes[self.outputs[0]]

    def constant(self, position: int) -> Array:
        """Return the value of an input that must be stored in the file."""
        value = self.build.constants.get(self.inputs[position])
        if value is None:
            raise self.unsupported(f"input {position} is computed, a constant is needed")
        return value

    def node(self, position: int) -> fx.Node:
        """Return the graph node of one input, made on the way where it is a constant."""
        index = self.inputs[position]
        if index not in self.build.nodes:
            self.build.nodes[index] = self.build.buffer(self.constant(position))
        return self.build.nodes[index]

    def plain(self, activation: int) -> None:
        """Refuse an activation fused into the operator: none of the face models has one."""
        if self.options.scalar(activation, number_types.Int8Flags):
            raise self.unsupported("fused activation")

    def unsupported(self, what: str = "operator not known") -> AuheatError:
        known = ", ".join(sorted(_EMITTERS))
        return StoreError(f"{self.build.path}: {self.name}: {what} (known operators: {known})")


class _Build:
    """What is known of a graph while its operators are turned into nodes one by one."""

    def __init__(self, path: Path, model: Row) -> None:
        (main,) = model.rows(2)
        tensors, buffers = main.rows(0), model.rows(4)
        self.path = path
        self.codes = model.rows(1)
        self.shapes = [tuple(int(d) for d in t.vector(0, np.int32)) for t in tensors]
        self.constants = dict(self._read_constants(tensors, buffers))
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.nodes: dict[int, fx.Node] = {}
        self.inputs = [int(i) for i in main.vector(1, np.int32)]
        self.outputs = [int(i) for i in main.vector(2, np.int32)]
        self.operators = main.rows(3)

    def _read_constants(
        self, tensors: list[Row], buffers: list[Row]
    ) -> Iterator[tuple[int, Array]]:
        for i, tensor in enumerate(tensors):
            data = buffers[tensor.scalar(2, number_types.Uint32Flags)].vector(0, np.uint8)
            if data.size:
                kind = tensor.scalar(1, number_types.Int8Flags)
                if kind not in _TYPES or tensor.scalar(6, number_types.UOffsetTFlags):
                    text = f"{self.path}: tensor {i}: type {kind} or sparse (dense float or int32)"
                    raise StoreError(text)
                yield i, data.view(_TYPES[kind]).reshape(self.shapes[i])

    def module(self, module: nn.Module, *arguments: fx.Node) -> fx.Node:
        """Add a submodule and a call of it."""
        name = f"op{len(self.graph.nodes)}"
        self.root.add_module(name, module)
        return self.graph.call_module(name, arguments)

    def buffer(self, value: Array) -> fx.Node:
        """Add a constant that travels with the module, in our own layout."""
        name = f"constant{len(self.graph.nodes)}"
        value = value.transpose(_NCHW) if value.ndim == 4 else value
        self.root.register_buffer(name, torch.from_numpy(value.astype(np.float32)))
        return self.graph.get_attr(name)

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> fx.Node:
        return self.graph.call_function(function, arguments, options)


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return how many zeros "SAME" puts (before, after): the odd one goes after."""
    reach = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def _window(op: _Op, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, ...]:
    """Return the padding (left, right, top, bottom) of a convolution or pooling."""
    if op.options.scalar(0, number_types.Int8Flags) != _SAME:
        return (0, 0, 0, 0)
    _, height, width, _ = op.shape(0)
    strides = op.options.scalar(2), op.options.scalar(1)
    rows = same_padding(height, kernel[0], strides[0], dilation[0])
    columns = same_padding(width, kernel[1], strides[1], dilation[1])
    return (*columns, *rows)


def _convolution(op: _Op, weight: Array, groups: int, first_dilation: int) -> fx.Node:
    """Add a convolution; `weight` is (out, in per group, h, w)."""
    kernel = (weight.shape[2], weight.shape[3])
    dilation = (
        op.options.scalar(first_dilation + 1, default=1),
        op.options.scalar(first_dilation, default=1),
    )
    x = op.node(0)
    pad = _window(op, kernel, dilation)
    symmetric = pad[0] == pad[1] and pad[2] == pad[3]
    if not symmetric:
        x = op.build.call(F.pad, x, pad)
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        kernel,
        stride=(op.options.scalar(2), op.options.scalar(1)),
        padding=(pad[2], pad[0]) if symmetric else 0,
        dilation=dilation,
        groups=groups,
    )
    layer.weight.data = torch.from_numpy(weight.astype(np.float32))
    assert layer.bias is not None
    layer.bias.data = torch.from_numpy(op.constant(2).astype(np.float32))
    return op.build.module(layer, x)


def _conv(op: _Op) -> fx.Node:
    op.plain(3)
    return _convolution(op, op.constant(1).transpose(_NCHW), 1, 4)


def _depthwise(op: _Op) -> fx.Node:
    op.plain(4)
    weight = op.constant(1).transpose(3, 0, 1, 2)  # (1, h, w, channels) -> one filter a channel
    return _convolution(op, weight, op.shape(0)[3], 5)


def _max_pool(op: _Op) -> fx.Node:
    op.plain(5)
    kernel = (op.options.scalar(4), op.options.scalar(3))
    x = op.node(0)
    pad = _window(op, kernel, (1, 1))
    if any(pad):
        x = op.build.call(F.pad, x, pad, value=float("-inf"))
    stride = (op.options.scalar(2), op.options.scalar(1))
    return op.build.call(F.max_pool2d, x, kernel, stride)


def _relu(op: _Op) -> fx.Node:
    return op.build.call(torch.relu, op.node(0))


def _prelu(op: _Op) -> fx.Node:
    alpha = op.constant(1)
    if alpha.size != alpha.shape[-1]:
        raise op.unsupported(f"slope of shape {alpha.shape}, one per channel is known")
    layer = nn.PReLU(alpha.size)
    layer.weight.data = torch.from_numpy(alpha.astype(np.float32).ravel())
    return op.build.module(layer, op.node(0))


def _add(op: _Op) -> fx.Node:
    op.plain(0)
    return op.build.call(torch.add, op.node(0), op.node(1))


def _multiply(op: _Op) -> fx.Node:
    op.plain(0)
    return op.build.call(torch.mul, op.node(0), op.node(1))


def _pad(op: _Op) -> fx.Node:
    widths = [tuple(int(v) for v in pair) for pair in op.constant(1)]
    if len(widths) != 4 or any(widths[0]):
        raise op.unsupported("padding of the batch or of a tensor that is no image")
    _, rows, columns, channels = widths
    return op.build.call(F.pad, op.node(0), (*columns, *rows, *channels))


def _reshape(op: _Op) -> fx.Node:
    x, target = op.node(0), op.output_shape
    if len(op.shape(0)) == 4:
        x = op.build.call(torch.permute, x, _NHWC)
    x = op.build.call(torch.reshape, x, (-1, *target[1:]))
    return op.build.call(torch.permute, x, _NCHW) if len(target) == 4 else x


def _concatenate(op: _Op) -> fx.Node:
    op.plain(1)
    rank = len(op.output_shape)
    axis = op.options.scalar(0) % rank
    axis = _NCHW.index(axis) if rank == 4 else axis
    return op.build.call(torch.cat, [op.node(i) for i in range(len(op.inputs))], axis)


def _strided_slice(op: _Op) -> fx.Node:
    begin, end, stride = (op.constant(i).tolist() for i in (1, 2, 3))
    if any(op.options.scalar(i) for i in range(5)) or any(s != 1 for s in stride):
        raise op.unsupported("masks or strides")
    x, rank = op.node(0), len(begin)
    for axis in range(1, rank):  # axis 0 is the batch, which the file fixes at one
        if (begin[axis], end[axis]) != (0, op.shape(0)[axis]):
            at = _NCHW.index(axis) if rank == 4 else axis
            x = op.build.call(torch.narrow, x, at, begin[axis], end[axis] - begin[axis])
    return x


def _region_matrix(op: _Op) -> fx.Node:
    o = flexbuffers.Loads(op.custom)
    module = RegionMatrix(
        o["subset_idxs"],
        (o["left_rotation_idx"], o["right_rotation_idx"]),
        (o["scale_x"], o["scale_y"]),
        (o["output_width"], o["output_height"]),
        o["target_rotation_radians"],
    )
    return op.build.module(module, op.node(0))


def _region_features(op: _Op) -> fx.Node:
    o = flexbuffers.Loads(op.custom)
    _, height, width, _ = op.shape(0)
    module = RegionFeatures((height, width), (o["output_height"], o["output_width"]))
    return op.build.module(module, op.node(0), op.node(1))


def _region_points(op: _Op) -> fx.Node:
    return op.build.call(place_points, op.node(0), op.node(1))


def _dequantize(op: _Op) -> None:
    """Fold a stored half-precision constant; there is nothing to compute at run time."""
    op.build.constants[op.outputs[0]] = op.constant(0).astype(np.float32)


_NAMES = {
    0: "ADD",
    2: "CONCATENATION",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE",
    17: "MAX_POOL_2D",
    18: "MUL",
    19: "RELU",
    22: "RESHAPE",
    34: "PAD",
    45: "STRIDED_SLICE",
    54: "PRELU",
}


_EMITTERS: dict[str, Callable[[_Op], fx.Node | None]] = {
    "ADD": _add,
    "CONCATENATION": _concatenate,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": _dequantize,
    "MAX_POOL_2D": _max_pool,
    "MUL": _multiply,
    "PAD": _pad,
    "PRELU": _prelu,
    "RELU": _relu,
    "RESHAPE": _reshape,
    "STRIDED_SLICE": _strided_slice,
    "Landmarks2TransformMatrix": _region_matrix,
    "TransformLandmarks": _region_points,
    "TransformTensorBilinear": _region_features,
}


def load(path: Path) -> fx.GraphModule:
    """Rebuild the graph of a .tflite file: images (N, C, H, W) float32 -> tuple of outputs.

    Outputs come in the file's order; those of rank 4 are (N, C, H, W) too.
    """
    data = read_model(path)
    if data[4:8] != b"TFL3":
        raise StoreError(f"{path}: not a TensorFlow Lite file (no TFL3 mark)")
    try:
        return _rebuild(path, data)
    except (struct.error, IndexError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: damaged TensorFlow Lite file ({error})") from error


def _rebuild(path: Path, data: bytes) -> fx.GraphModule:
    root = int.from_bytes(data[:4], "little")
    build = _Build(path, Row(Table(data, root)))
    for i in build.inputs:
        build.nodes[i] = build.graph.placeholder(f"input{i}")
    for row in build.operators:
        op = _Op(build, row)
        if op.name not in _EMITTERS:
            raise op.unsupported()
        node = _EMITTERS[op.name](op)
        if node is not None:
            build.nodes[op.outputs[0]] = node
    build.graph.output(tuple(build.nodes[i] for i in build.outputs))
    return fx.GraphModule(build.root, build.graph).eval().requires_grad_(False)
