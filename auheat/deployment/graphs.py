"""A network as a graph of its own: ONNX, or TorchScript, compared with the network itself."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from auheat.deployment.run_model import RunModel
from auheat.errors import AuheatError, MissingExtraError
from auheat.models.output import logits_alone
from auheat.utils.files import dump_json

OUTPUTS = ("logits", "attention", "class_maps")

TOLERANCE = 1e-4
"""How far a graph's outputs may be from the network's, in multiples of the largest, or of 1."""

ABOUT = "auheat.json"
"""What the metadata are called among the extra files of a TorchScript archive."""

_TRACED, _COMPARED = 2, 3
"""Photos that a graph is made with, and those it is compared on: any number goes."""


class Graph(NamedTuple):
    """A network's graph: `bytes` of a file, made of its metadata, and how far it is off.

    `differences` has the largest of each output; `left_out` what it lacks, and why.
    """

    pack: Callable[[Mapping[str, Any]], bytes]
    differences: dict[str, float]
    left_out: dict[str, str]


class _Outputs(nn.Module):
    """A network that returns tensors alone: logits (B, K), attention (B, h, w), class maps."""

    def __init__(self, model: RunModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, images: Tensor, landmarks: Tensor | None = None) -> tuple[Tensor, ...]:
        with nullcontext() if "class_maps" in self.names else logits_alone():
            maps = self.model.maps(images, landmarks)
        found = {"logits": maps.logits, "attention": maps.attention[-1], "class_maps": maps.cams}
        return tuple(found[name] for name in self.names)


def make_graph(model: RunModel, kind: str, mean_face: np.ndarray[Any, Any]) -> Graph:
    """Return a network as a graph of a `kind`, "onnx" or "torchscript", for any number of photos.

    `mean_face` (68, 2) stands for landmarks where they are an input. What the method has no map
    of, or a graph cannot hold, is left out, with the reason. Raises `AuheatError` where torch
    cannot make the graph, a package is missing, or the outputs differ.
    """
    make = {"onnx": make_onnx, "torchscript": make_torchscript}[kind]
    left_out = {}
    if not model.method.class_maps:
        left_out["class_maps"] = f"{model.method.title} has one map for all classes"
    for names in dict.fromkeys([OUTPUTS[: 2 if left_out else 3], OUTPUTS[:2]]):
        network = _Outputs(model, names).eval()
        try:
            with _quiet():
                pack, run = make(network, _make_inputs(model, _TRACED, mean_face))
        except AuheatError:
            raise
        except Exception as error:  # torch raises whatever a step of it meets
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            if "class_maps" not in names:
                raise AuheatError(
                    f"--format {kind}: torch makes no graph of {model.method.title}: {reason} "
                    "(safetensors and huggingface need none)"
                ) from error
            left_out["class_maps"] = f"torch makes no graph of {model.method.title}'s: {reason}"
            continue
        inputs = _make_inputs(model, _COMPARED, mean_face)
        with torch.no_grad():
            expected = dict(zip(names, network(*inputs), strict=True))
        return Graph(pack, _compare(expected, run(inputs), kind), left_out)
    raise AssertionError("the last try returns or raises")


def _make_inputs(
    model: RunModel, count: int, mean_face: np.ndarray[Any, Any]
) -> tuple[Tensor, ...]:
    """Return `count` random images, and where they are an input landmarks, the last ones NaN."""
    draw = torch.Generator().manual_seed(count)
    images = torch.rand((count, 3, model.image_size, model.image_size), generator=draw)
    if not model.takes_landmarks:
        return (images,)
    face = torch.from_numpy(model.image_size * (0.5 + 0.4 * mean_face)).float()
    points = face + torch.randn((count, *face.shape), generator=draw)
    points[_TRACED:] = torch.nan
    return images, points


def _compare(
    expected: Mapping[str, Tensor], found: list[np.ndarray[Any, Any]], kind: str
) -> dict[str, float]:
    """Return the largest difference of each output; raises `AuheatError` where one is too large."""
    differences = {}
    for (name, values), other in zip(expected.items(), found, strict=True):
        gap, most = np.abs(values.numpy() - other).max(), np.abs(values.numpy()).max()
        if not gap <= TOLERANCE * max(1, most):
            raise AuheatError(
                f"--format {kind}: {name} differs from the network's by {gap:.2g} (expected at "
                f"most {TOLERANCE:g}: another version of the packages may do better)"
            )
        differences[name] = float(gap)
    return differences


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Keep back what torch says of its own inside, and of shapes that are meant to be fixed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


_Packed = tuple[
    Callable[[Mapping[str, Any]], bytes],
    Callable[[tuple[Tensor, ...]], list[np.ndarray[Any, Any]]],
]


def make_torchscript(network: _Outputs, inputs: tuple[Tensor, ...]) -> _Packed:
    """Return what packs a traced network, and what runs it."""
    with torch.no_grad():
        traced = torch.jit.trace(network, inputs, check_trace=False)  # type: ignore[no-untyped-call]

    def pack(about: Mapping[str, Any]) -> bytes:
        out = io.BytesIO()
        with _quiet():
            torch.jit.save(traced, out, {ABOUT: dump_json(about)})
        return out.getvalue()

    def run(given: tuple[Tensor, ...]) -> list[np.ndarray[Any, Any]]:
        with torch.no_grad():
            return [value.numpy() for value in traced(*given)]

    return pack, run


def make_onnx(network: _Outputs, inputs: tuple[Tensor, ...]) -> _Packed:
    """Return what packs an ONNX graph, and what runs it with onnxruntime.

    Raises `AuheatError` where a package that this takes is missing.
    """
    try:
        runtime, script, _ = map(import_module, ("onnxruntime", "onnxscript", "onnx"))
    except ImportError as error:
        raise MissingExtraError(f'--format onnx: {error} (pip install "auheat[onnx]")') from error
    op = script.opset18

    def hypot(x: Any, y: Any) -> Any:  # which ONNX does not have
        return op.Sqrt(op.Add(op.Mul(x, x), op.Mul(y, y)))

    names = ["images", "landmarks"][: len(inputs)]
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        network,
        inputs,
        dynamo=True,
        input_names=names,
        output_names=list(network.names),
        dynamic_shapes=tuple({0: batch} for _ in inputs),
        custom_translation_table={torch.ops.aten.hypot.default: hypot},
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    proto.producer_name = "auheat"

    def pack(about: Mapping[str, Any]) -> bytes:
        del proto.metadata_props[:]
        for key, value in about.items():
            text = value if isinstance(value, str) else dump_json(value)
            proto.metadata_props.add(key=key, value=text)
        return bytes(proto.SerializeToString())

    def run(given: tuple[Tensor, ...]) -> list[np.ndarray[Any, Any]]:
        session = runtime.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        fed = {name: value.numpy() for name, value in zip(names, given, strict=True)}
        return list(session.run(None, fed))

    return pack, run
