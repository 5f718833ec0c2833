"""A CUDA device for machines without one: its tensors have shapes and no numbers, what lies on the host is computed.

Torch's FakeTensorMode refuses operations that mix devices, as CUDA does. `Card` also tells every time the host waits:
a number read from the device, a tensor copied back, a copy to it that is not queued. Of what is read there, all
numbers are one and everything is true.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vqclip.loop import annealing, augment, colours, crops
from vqclip.run import assemble

CUDA = torch.device("cuda", 0)
_READ = torch.ops.aten._local_scalar_dense.default
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Card(TorchDispatchMode):
    """The device while it is entered. `waits` are the operations at which the host waited, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._inside = 0  # operations of operations
        self.copied = 0  # bytes that went over, queued or not
        self._fakes = FakeTensorMode(allow_non_fake_inputs=True)

    def __enter__(self) -> Any:
        self._fakes.__enter__()
        return super().__enter__()

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)
        self._fakes.__exit__(*problem)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        there = torch.device(kwargs.get("device") or "cpu").type == "cuda"
        if not there and not any(isinstance(value, FakeTensor) for value in inputs):
            with unset_fake_temporarily():  # on the host alone
                return func(*args, **kwargs)
        if func is _READ:
            self.waits.append("a number read")
            return {torch.bool: True, torch.int64: 1}.get(args[0].dtype, 1.0)
        if func is torch.ops.aten.nonzero.default:
            self.waits.append("a shape read")
            return torch.zeros(1, args[0].dim(), dtype=torch.int64, device=args[0].device)
        self._inside += 1
        try:
            out = func(*args, **kwargs)
        finally:
            self._inside -= 1
        if func in _COPIES and not self._inside:
            return self._copied(func, out, args, kwargs)
        return out

    def _copied(self, func: Any, out: Tensor, args: Any, kwargs: Any) -> Tensor:
        goal, source = (args[0], args[1]) if func is torch.ops.aten.copy_.default else (out, args[0])
        if source.device.type == goal.device.type:
            return out
        queued = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
        if goal.device.type == "cpu":
            self.waits.append(f"{tuple(source.shape)} copied to the host")
            with unset_fake_temporarily():
                return torch.ones(out.shape, dtype=out.dtype)
        self.copied += source.numel() * source.element_size()
        if not queued:
            self.waits.append(f"{tuple(source.shape)} copied to the device at once")
        return out


def _apply(self: torch.nn.Module, fn: Any, recurse: bool = True) -> torch.nn.Module:
    """`Module._apply`, which `to` uses: torch's own cannot move a network that was moved before."""
    for module in self.modules():
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                if value is not None:
                    made = fn(value.detach())
                    own = isinstance(value, torch.nn.Parameter)
                    store[name] = torch.nn.Parameter(made, value.requires_grad) if own else made
    return self


class _Event:
    def __init__(self, **_options: object) -> None: ...

    def record(self, _stream: object = None) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None: ...

    def elapsed_time(self, last: _Event) -> float:
        return (last.at - self.at) * 1000


@contextmanager
def card() -> Iterator[Card]:
    """The machine as if it had one CUDA device."""
    with pytest.MonkeyPatch.context() as patch, Card() as made:
        patch.setattr(Tensor, "backward", backward)
        patch.setattr(Tensor, "pin_memory", lambda self: self)
        patch.setattr(FakeTensor, "tolist", lambda self: self.cpu().tolist())
        patch.setattr(torch.nn.Module, "_apply", _apply)
        for room in (annealing, augment, crops):  # there are no generators of a device that is not there
            patch.setattr(room, "seeded", lambda _device, seed: torch.Generator().manual_seed(seed))
        patch.setattr(torch.cuda, "Event", _Event)
        patch.setattr(torch.cuda, "current_stream", lambda _device: None)
        patch.setattr(torch.cuda, "synchronize", lambda _device=None: made.waits.append("synchronize"))
        patch.setattr(torch.cuda, "get_device_name", lambda _device: "a card")
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        patch.setattr(torch.cuda, "mem_get_info", lambda _device: (1 << 40, 1 << 40))
        patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: None)
        for name in ("memory_reserved", "memory_allocated", "max_memory_allocated"):
            patch.setattr(torch.cuda, name, lambda _device: 0)
        patch.setattr(torch.backends.cudnn, "enabled", False)  # else kernels ask the driver for its version
        patch.setattr(assemble, "pick_device", lambda _wanted: CUDA)
        patch.setattr(assemble, "pick_dtype", lambda _wanted, _device: torch.float32)
        tables = (colours._constant, colours._table_at, colours._sides_of, colours._shades, colours._all_shades)
        for table in tables:
            table.cache_clear()
        try:
            yield made
        finally:
            for table in tables:
                table.cache_clear()


def backward(root: Tensor, gradient: Tensor | None = None) -> None:
    """`Tensor.backward` by walking the graph: torch's own engine asks a driver for the device's streams."""
    first = torch.ones_like(root) if gradient is None else gradient
    if root.grad_fn is None:
        root.grad = first if root.grad is None else root.grad + first
        return
    held: dict[Any, dict[int, Tensor]] = {root.grad_fn: {root.output_nr: first}}
    with torch.no_grad():
        for node in _order(root.grad_fn):
            given = held.pop(node, {})
            if not given:
                continue
            if hasattr(node, "variable"):
                leaf = node.variable
                leaf.grad = given[0] if leaf.grad is None else leaf.grad + given[0]
                continue
            count = max(max(given) + 1, len(node._input_metadata))
            run = node if callable(node) else node.apply  # functions of our own are called by name
            passed = run(*[given.get(index) for index in range(count)])
            passed = passed if isinstance(passed, tuple) else (passed,)
            for (following, place), value in zip(node.next_functions, passed, strict=False):
                if following is not None and value is not None:
                    wanted = following._input_metadata[place].shape
                    value = value if value.shape == wanted else value.sum_to_size(wanted)  # what was broadcast
                    slot = held.setdefault(following, {})
                    slot[place] = value if place not in slot else slot[place] + value


def _order(root: Any) -> list[Any]:
    """The nodes of a graph, each before those that it passes gradients to."""
    found, seen, left = [], set(), [(root, False)]
    while left:
        node, done = left.pop()
        if done:
            found.append(node)
        elif node not in seen:
            seen.add(node)
            left.append((node, True))
            left += [(following, False) for following, _ in node.next_functions if following is not None]
    return found[::-1]
