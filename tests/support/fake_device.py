"""A CUDA device that is not there: real numbers on the CPU, under CUDA's rules.

Tensors stay the CPU's, so that values, gradients and control flow are the real ones. What differs
is a mark on each piece of memory that says where it is taken to lie, and which stream wrote it
last. Every operator, of the forward and of the backward pass, is checked against the marks:

* a `BrokenRuleError` is raised where CUDA would refuse (tensors on two devices, NumPy on a device
  tensor, an operator without a CUDA kernel) and where it would not, but could read half a copy
  (what another stream wrote, without having waited for it);
* `waits` counts the lines at which the host waits for the device.

It sees one thread, and neither kernels' own numerics nor several processes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

CPU = torch.device("cpu")

_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")

_WAITS = {
    "_local_scalar_dense": "one number is read",
    "nonzero": "nonzero",
    "masked_select": "masked_select",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "bincount": "bincount",
    "equal": "equal",
    "_linalg_check_errors": "linalg",
}
"""Operators whose result has a size or a value that the host has to know."""

_PICKS = ("index", "index_select", "gather", "grid_sampler_2d", "embedding", "take")

_NO_SCALARS = ("cat", "stack", "index_select", "gather", "scatter", "scatter_", "embedding")
"""Operators that take not even a single number from the CPU."""


class BrokenRuleError(AssertionError):
    """What CUDA would refuse, or would do wrong."""


@dataclass
class Mark:
    """Where a piece of memory lies, and the stream that wrote it last, at which of its times."""

    device: torch.device = CPU
    pinned: bool = False
    written: tuple[Stream, int] | None = None


class Stream:
    """Work in order; `seen` says how far the work of other streams is known to have come."""

    def __init__(self, device: Any = None, **_: Any) -> None:
        self.owner = _active[-1]
        self.device = self.owner.resolve(device)
        self.time = 0
        self.seen: dict[Stream, int] = {}

    def learn(self, seen: dict[Stream, int]) -> None:
        for stream, time in seen.items():
            self.seen[stream] = max(time, self.seen.get(stream, 0))

    def known(self) -> dict[Stream, int]:
        return {**self.seen, self: self.time}

    def wait_event(self, event: Event) -> None:
        self.learn(event.seen)

    def wait_stream(self, other: Stream) -> None:
        self.learn(other.known())

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        _active[-1].wait("Stream.synchronize", self.known())


class Event:
    """A moment of a stream's work."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.seen: dict[Stream, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        self.seen = (stream or _active[-1].stream()).known()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or _active[-1].stream()).learn(self.seen)

    def synchronize(self) -> None:
        _active[-1].wait("Event.synchronize", self.seen)

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: Event) -> float:
        return 1.0


class Graph:
    """A CUDA graph: the kernels of its capture, done again on the very same memory."""

    def __init__(self) -> None:
        self.work: list[tuple[Any, Any, Any, Any, list[Tensor]]] = []
        self.device, self.traffic = CPU, 0

    def record(self, func: Any, args: Any, kwargs: Any, made: Any, fresh: list[Tensor]) -> None:
        self.work.append((func, args, kwargs, made, fresh))

    def forget(self) -> None:
        """Leave nothing in the memory: while a graph is captured no kernel runs."""
        for tensor in (t for *_, fresh in self.work for t in fresh if t.is_floating_point()):
            torch.ops.aten.fill_.Scalar(tensor, float("nan"))

    def replay(self) -> None:
        fresh = [t for *_, some in self.work for t in some]
        own = {_storage(t).data_ptr() for t in fresh}
        read = [t for _, args, kwargs, *_ in self.work for t in _tensors(args, kwargs)]
        given = [t for t in read if _storage(t).data_ptr() not in own]
        _active[-1].launch(self.device, given, fresh)
        _active[-1].traffic += self.traffic
        with _disable_current_modes(), torch.inference_mode():
            for func, args, kwargs, made, some in self.work:
                for old, new in zip(_tensors(made), _tensors(func(*args, **kwargs)), strict=True):
                    if any(old is one for one in some):
                        torch.ops.aten.copy_.default(old, new)


_active: list[FakeDevice] = []


def mark_of(tensor: Tensor) -> Mark:
    """Return the mark of a tensor's memory."""
    storage = _storage(tensor)
    if not hasattr(storage, "fake_mark"):
        storage.fake_mark = Mark()
    mark: Mark = storage.fake_mark
    return mark


def _storage(tensor: Tensor) -> Any:
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage()


class FakeDevice:
    """Lets `count` CUDA devices seem to be there, inside of a `with`.

    Attributes:
        waits: Line of the project -> how often the host waited there.
        kernels: How many kernels were launched, a graph being one.
        traffic: Bytes that they read and wrote, as far as no cache holds them.
        capability: What `torch.cuda.get_device_capability` says.
    """

    def __init__(self, count: int = 1, capability: tuple[int, int] = (8, 0)) -> None:
        self.count, self.capability = count, capability
        self.current = 0
        self.waits: Counter[str] = Counter()
        self.kernels = self.traffic = 0
        self.capturing: Graph | None = None
        self.host: dict[Stream, int] = {}
        self.creating = [CPU]
        self._streams: dict[int, list[Stream]] = {}
        self._held = ExitStack()

    def __enter__(self) -> FakeDevice:
        if torch.cuda.is_available():
            torch.cuda.init()  # a real one is not to be left half awake
        _active.append(self)
        self._streams = {n: [Stream(n)] for n in range(self.count)}
        autograd_groups = torch._C._group_tensors_by_device_and_dtype

        def group(tensors: Any, indices: bool = False) -> Any:
            groups = autograd_groups(tensors, indices)
            return {
                (mark_of(lists[0][0][0]).device, kind): lists for (_, kind), lists in groups.items()
            }

        changes = [
            (torch.Tensor, "device", property(lambda tensor: mark_of(tensor).device)),
            (torch.Tensor, "is_cuda", property(lambda tensor: mark_of(tensor).device != CPU)),
            (torch.Tensor, "record_stream", lambda *_: None),  # a C++ method, of real streams
            (torch, "autocast", _Autocast),
            (torch._C, "_group_tensors_by_device_and_dtype", group),
            *((torch.cuda, name, value) for name, value in self._functions().items()),
        ]
        for owner, name, value in changes:
            self._held.enter_context(patch.object(owner, name, value))
        self._held.enter_context(_Operators(self))
        self._held.enter_context(_Calls(self))
        return self

    def __exit__(self, *_: Any) -> None:
        self._held.close()
        _active.pop()

    def _functions(self) -> dict[str, Any]:
        """Return what takes the place of functions of `torch.cuda`."""
        return {
            "Stream": Stream,
            "Event": Event,
            "CUDAGraph": Graph,
            "graph": self._capture,
            "graph_pool_handle": lambda: (0, 1),
            "stream": self._use,
            "current_stream": self.stream,
            "default_stream": lambda device=None: self._streams[self.resolve(device).index][0],
            "is_available": lambda: self.count > 0,
            "device_count": lambda: self.count,
            "current_device": lambda: self.current,
            "set_device": lambda device: setattr(self, "current", self.resolve(device).index),
            "synchronize": lambda device=None: self.stream(device).synchronize(),
            "get_device_capability": lambda _=None: self.capability,
            "get_arch_list": lambda: [f"sm_{self.capability[0]}{self.capability[1]}"],
            "get_device_name": lambda _=None: "a card that is not there",
            "is_bf16_supported": lambda *_, **__: self.capability >= (8, 0),
            "mem_get_info": lambda _=None: (8 << 30, 8 << 30),
            "empty_cache": lambda: None,
            "_lazy_init": lambda: None,
            "get_rng_state": lambda _=None: torch.zeros(16, dtype=torch.uint8),
            "set_rng_state": lambda *_: None,
        }

    def resolve(self, device: Any) -> torch.device:
        """Return a device with its number, the current one for None and "cuda"."""
        if device is None or isinstance(device, int):
            return torch.device("cuda", self.current if device is None else device)
        device = torch.device(device)
        if device.type == "cuda" and device.index is None:
            return torch.device("cuda", self.current)
        return device

    def stream(self, device: Any = None) -> Stream:
        """Return the stream that work on a device goes to."""
        return self._streams[self.resolve(device).index][-1]

    @contextmanager
    def _use(self, stream: Stream | None) -> Iterator[None]:
        if stream is None:
            yield
            return
        number, before = stream.device.index, self.current
        self._streams[number].append(stream)
        self.current = number
        try:
            yield
        finally:
            self._streams[number].pop()
            self.current = before

    @contextmanager
    def _capture(
        self, graph: Graph, _pool: Any = None, stream: Any = None, **_: Any
    ) -> Iterator[None]:
        self.wait("torch.cuda.graph", self._now(stream.device))
        graph.device, self.capturing = stream.device, graph
        try:
            with self._use(stream):
                yield
        finally:
            self.capturing = None
        with _disable_current_modes(), torch.inference_mode():
            graph.forget()

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Yield a counter of the waits inside of the `with`, filled at its end."""
        before, waits = self.waits.copy(), Counter()
        yield waits
        waits.update(self.waits - before)

    def wait(self, why: str, known: dict[Stream, int]) -> None:
        """Enter that the host waits until what is known has been done."""
        if self.capturing is not None:
            fail(f"{why}, inside of a graph that is captured")
        self.waits[f"{_line()}: {why}"] += 1
        for stream, time in known.items():
            self.host[stream] = max(time, self.host.get(stream, 0))

    def launch(self, device: torch.device, reads: list[Tensor], writes: list[Tensor]) -> None:
        """Enter a kernel; raise where it may begin before what it reads was written."""
        if self.capturing is None:
            self.kernels += 1
        stream = self.stream(device)
        stream.learn(self.host)
        stream.time += 1
        for tensor in reads:
            self._check_written(tensor, stream.known())
        for tensor in writes:
            mark_of(tensor).written = stream, stream.time

    def read_on_host(self, tensor: Tensor) -> None:
        """Raise where a CPU tensor may be read before its copy from a device is over."""
        if mark_of(tensor).device == CPU:
            self._check_written(tensor, self.host)

    def _check_written(self, tensor: Tensor, known: dict[Stream, int]) -> None:
        stream, time = mark_of(tensor).written or (None, 0)
        own = stream is not None and stream.owner is self  # what is kept outlives a device
        if own and known.get(stream, 0) < time:
            fail("this reads what another stream writes, without having waited for it")

    def move(self, source: Tensor, made: Tensor, target: torch.device, quick: bool) -> Tensor:
        """Enter a copy to another device; `made` has its values."""
        if self.capturing is not None:
            fail("a copy to or from the host, inside of a graph that is captured")
        origin = mark_of(source)
        device = origin.device if target == CPU else target
        if target == CPU:  # a quick copy home is into pinned memory, and not over at once
            made.untyped_storage().fake_mark = Mark(CPU, pinned=quick)
        else:
            self.read_on_host(source)
            made.untyped_storage().fake_mark = Mark(target)
        self.launch(device, [] if origin.device == CPU else [source], [made])
        if not quick:
            self.wait(f"copy to {'the host' if target == CPU else 'the device'}", self._now(device))
        return made

    def _now(self, device: torch.device) -> dict[Stream, int]:
        return self.stream(device).known()

    def wait_for(self, device: torch.device, why: str) -> None:
        """Enter that the host waits for a device's current stream."""
        self.wait(why, self._now(device))


def fail(what: str) -> None:
    """Raise `BrokenRuleError` with the line that broke a rule."""
    raise BrokenRuleError(f"{_line()}: {what}")


def _line() -> str:
    """Return the project's line that is being run, or else the test's."""
    frame, nearest = sys._getframe(1), ""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.name != Path(__file__).name and "site-packages" not in file.parts:
            line = f"{file.parent.name}/{file.name}:{frame.f_lineno} {frame.f_code.co_name}"
            if "auheat" in file.parts:
                return line
            nearest = nearest or line
        frame = frame.f_back
    return nearest


def _tensors(*values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


class _Autocast(torch.autocast):
    """Mixed precision for what seems to lie on CUDA, and lies on the CPU."""

    def __init__(self, device_type: str, *rest: Any, **more: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *rest, **more)


class _Calls(TorchFunctionMode):
    """What Python asks of tensors that the operators beneath do not know as questions of device."""

    def __init__(self, fake: FakeDevice) -> None:
        super().__init__()
        self.fake = fake

    def __torch_function__(
        self, func: Any, _: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        special = _SPECIAL.get(func)
        if special is not None:
            return special(self.fake, *args, **kwargs)
        on_device = (mark_of(t).device for t in _tensors(args, kwargs))
        self.fake.creating.append(next((d for d in on_device if d != CPU), CPU))
        try:
            return func(*args, **kwargs)
        finally:
            self.fake.creating.pop()


def _to(fake: FakeDevice, source: Tensor, *rest: Any, **more: Any) -> Tensor:
    first, *others = rest or (None,)
    if isinstance(first, torch.dtype):
        more["dtype"] = first
    elif isinstance(first, Tensor):
        more |= {"dtype": first.dtype, "device": mark_of(first).device}
    elif first is not None:
        more["device"] = first
    if isinstance(others[0] if others else None, torch.dtype):
        more["dtype"] = others.pop(0)
    more |= dict(zip(("non_blocking", "copy"), others, strict=False))
    here, asked = mark_of(source).device, more.pop("device", None)
    target = here if asked is None else fake.resolve(asked)
    quick = more.pop("non_blocking", False)
    more = {name: value for name, value in more.items() if value is not None}
    fake.read_on_host(source)
    made = source.to(**more) if more else source
    if target == here:
        return made
    shares = made.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
    return fake.move(source, made.clone() if shares else made, target, quick)


def _from_data(make: Any) -> Any:
    """Return `make`, which copies Python's numbers to a device, and so waits for it."""

    def made(fake: FakeDevice, data: Any, *rest: Any, device: Any = None, **more: Any) -> Tensor:
        if isinstance(data, Tensor):
            kept = data.clone() if make is torch.tensor else data
            return _to(fake, kept, device=device, dtype=more.get("dtype"))
        values = make(data, *rest, **more)
        target = CPU if device is None else fake.resolve(device)
        return values if target == CPU else fake.move(values, values.clone(), target, False)

    return made


def _new_tensor(fake: FakeDevice, source: Tensor, data: Any, **more: Any) -> Tensor:
    more = {"device": mark_of(source).device, "dtype": source.dtype} | more
    return _from_data(torch.tensor)(fake, data, **more)


def _to_numpy(read: Any) -> Any:
    def convert(fake: FakeDevice, source: Tensor, *rest: Any, **more: Any) -> Any:
        if mark_of(source).device != CPU:
            fail(f"{read.__name__} of a tensor on {mark_of(source).device}")
        fake.read_on_host(source)
        return read(source, *rest, **more)

    return convert


def _tolist(fake: FakeDevice, source: Tensor) -> Any:
    fake.read_on_host(source)
    if mark_of(source).device != CPU:
        fake.launch(mark_of(source).device, [source], [])
        fake.wait_for(mark_of(source).device, "tolist")
    return source.tolist()


def _pin(_: FakeDevice, source: Tensor, *__: Any) -> Tensor:
    made = source.clone()
    mark_of(made).pinned = True
    return made


def _deepcopy(_: FakeDevice, source: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(source) not in memo:
        memo[id(source)] = source.detach().clone().requires_grad_(source.requires_grad)
    copied: Tensor = memo[id(source)]
    return copied


def _one_hot(fake: FakeDevice, labels: Tensor, classes: int = -1) -> Tensor:
    if classes < 0:  # else CUDA, unlike a CPU, does not look whether labels are in range
        fake.wait_for(mark_of(labels).device, "one_hot without a number of classes")
    made = labels.new_zeros((*labels.shape, classes))
    return made.scatter(-1, labels[..., None], 1)


_SPECIAL = {
    torch.Tensor.to: _to,
    torch.Tensor.cpu: lambda fake, source: _to(fake, source, CPU),
    torch.Tensor.cuda: lambda fake, source, *at, **more: _to(
        fake, source, fake.resolve(at[0] if at else None), **more
    ),
    torch.Tensor.type_as: lambda fake, source, other: _to(fake, source, other),
    torch.Tensor.numpy: _to_numpy(torch.Tensor.numpy),
    torch.Tensor.__array__: _to_numpy(torch.Tensor.__array__),
    torch.Tensor.tolist: _tolist,
    torch.Tensor.pin_memory: _pin,
    torch.Tensor.is_pinned: lambda _, source, *__: mark_of(source).pinned,
    torch.Tensor.new_tensor: _new_tensor,
    torch.Tensor.__deepcopy__: _deepcopy,
    torch.nn.functional.one_hot: _one_hot,
    **{make: _from_data(make) for make in (torch.tensor, torch.as_tensor, torch.asarray)},
}


class _Operators(TorchDispatchMode):
    """Every operator that is run."""

    def __init__(self, fake: FakeDevice) -> None:
        super().__init__()
        self.fake = fake

    def __torch_dispatch__(
        self, func: Any, _: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func._can_decompose():  # where no gradient is asked for they come whole
            with self:
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        asked, pinned = kwargs.get("device"), kwargs.pop("pin_memory", False)
        target = CPU if asked is None else self.fake.resolve(asked)
        if asked is not None:
            kwargs["device"] = CPU
        name, tensors = func._schema.name.removeprefix("aten::"), _tensors(args, kwargs)
        places = {mark_of(t).device for t in tensors} - {CPU}
        if name == "_to_copy" and target != CPU and target not in places:
            quick = kwargs.pop("non_blocking", False)
            return self.fake.move(args[0], func(*args, **kwargs), target, quick)
        if not tensors and target == CPU:  # what C++ makes lies where its tensors do
            target = self.fake.creating[-1]
        where = target if target != CPU else next(iter(places), CPU)
        if where == CPU:
            for tensor in tensors:
                self.fake.read_on_host(tensor)
            made = func(*args, **kwargs)
            if pinned:
                mark_of(made).pinned = True
            return made
        self._check(func, name, args, tensors, places)
        made = func(*args, **kwargs)
        self._enter(func, args, kwargs, tensors, made, where)
        if name in _WAITS:
            self.fake.wait_for(where, _WAITS[name])
        return made

    def _check(
        self, func: Any, name: str, args: Any, tensors: list[Tensor], places: set[torch.device]
    ) -> None:
        """Raise for what no CUDA device could run; count copies that an operator makes itself."""
        if not _has_kernel(str(func).removeprefix("aten.").removesuffix(".default")):
            fail(f"torch has no CUDA kernel of {name}")
        if len(places) > 1:
            fail(f"{name}: tensors on {' and '.join(sorted(map(str, places)))}")
        hosted = [t for t in tensors if mark_of(t).device == CPU]
        if name == "copy_":
            if hosted and not any(args[2:]):
                self.fake.wait_for(next(iter(places)), "copy_ from or to the host")
        elif name in _INDEXING:
            self._check_index(name, *args[:3])
        elif name.startswith("_foreach"):  # the steps of an optimizer are counted on the CPU
            return
        elif places and any(t.dim() or name in _NO_SCALARS for t in hosted):
            fail(f"{name}: tensors on the CPU and on {next(iter(places))}")

    def _check_index(self, name: str, data: Tensor, index: Any, values: Any = None) -> None:
        device = mark_of(data).device
        given = [i for i in index if i is not None]
        if device == CPU:
            fail(f"{name}: indices on a device, and what they index on the CPU")
        filled = isinstance(values, Tensor) and mark_of(values).device == CPU
        if filled and values.dim():
            fail(f"{name}: values on the CPU, to be put on {device}")
        if any(mark_of(i).device == CPU for i in given):
            self.fake.wait_for(device, "indices are copied to the device")
        elif any(i.dtype == torch.bool for i in given) and not filled:
            self.fake.wait_for(device, "a mask is turned into indices")

    def _enter(
        self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], made: Any, where: Any
    ) -> None:
        """Mark what an operator made, and enter the kernel, if it is not a mere view."""
        changed = []
        for place, about in enumerate(func._schema.arguments):
            if about.alias_info is not None and about.alias_info.is_write:
                value = kwargs.get(about.name, args[place] if place < len(args) else None)
                changed += _tensors(value)
        before = {_storage(t).data_ptr() for t in tensors}
        fresh = [t for t in _tensors(made) if _storage(t).data_ptr() not in before]
        for tensor in fresh:
            _storage(tensor).fake_mark = Mark(where)
        if fresh or changed:
            reads = [t for t in tensors if mark_of(t).device != CPU]
            self.fake.launch(where, reads, [*fresh, *changed])
            counted = self.fake if self.fake.capturing is None else self.fake.capturing
            counted.traffic += _count_bytes(func, reads, [*fresh, *changed])
        if self.fake.capturing is not None:
            self.fake.capturing.record(func, args, kwargs, made, fresh)


def _count_bytes(func: Any, reads: list[Tensor], writes: list[Tensor]) -> int:
    """Return the bytes that a kernel moves; of what it picks from, no more than it picks."""
    sizes = [
        [min(t.numel() * t.element_size(), _storage(t).nbytes()) for t in some]
        for some in (reads, writes)
    ]
    picks = func._schema.name.removeprefix("aten::") in _PICKS
    return sum(min(n, sum(sizes[1])) if picks else n for n in sizes[0]) + sum(sizes[1])


@cache
def _kernels() -> dict[str, bool]:
    """Return operator -> whether there is a kernel for CUDA, by torch's own table of them."""
    spec = find_spec("torchgen")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "packaged/ATen/native/native_functions.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    rows = yaml.load(file.read_text(encoding="utf-8"), loader)
    kernels, delegates = {}, {}
    general = {"CUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd"}
    general |= {"CompositeExplicitAutogradNonFunctional"}
    for row in rows:
        name = row["func"].split("(")[0]
        keys = {k.strip() for entry in row.get("dispatch") or {} for k in entry.split(",")}
        kernels[name] = not keys or bool(keys & general) or "ufunc_inner_loop" in row
        if "structured_delegate" in row:
            delegates[name] = row["structured_delegate"]
    return kernels | {name: kernels.get(other, True) for name, other in delegates.items()}


def _has_kernel(name: str) -> bool:
    own = name.split(".")[0].endswith(("_for_cpu", "_for_cpu_backward"))  # CUDA has its own of it
    return own or _kernels().get(name, True)
