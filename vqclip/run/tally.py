"""Counts the bytes that tensors hold while some work is done, and continues the count to larger work.

The same on every device, because it counts tensors and not what an allocator makes of them: a kernel's own
scratch space and fragmentation are not in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Turn = Callable[[], None]


@dataclass(frozen=True)
class Trace:
    """Bytes alive after each operation of some work; at `turn` its backward pass begins."""

    history: tuple[int, ...]
    turn: int


@dataclass(frozen=True)
class Growth:
    """What the same work holds at one or more amounts (of cells, of crops), in rising order."""

    amounts: tuple[int, ...]
    traces: tuple[Trace, ...]

    def at(self, amount: int) -> tuple[int, int]:
        """Bytes at any amount: what the graph holds when the backward pass begins, and the most at any moment.

        A tensor's size is a polynomial of the amount; where its degree is less than the number of traces,
        this is exact: one curve for each operation (Lagrange's form), the highest wins. Work that takes
        another way at another amount is continued in proportion to its largest trace.
        """
        last = self.traces[-1]
        if len({len(trace.history) for trace in self.traces}) > 1 or len(self.traces) == 1:
            scale = amount / self.amounts[-1]
            return int(last.history[last.turn] * scale), int(max(last.history) * scale)
        total = torch.zeros(len(last.history), dtype=torch.float64)
        for own, trace in zip(self.amounts, self.traces, strict=True):
            share = 1.0
            for other in self.amounts:
                share *= (amount - other) / (own - other) if other != own else 1
            total += share * torch.tensor(trace.history, dtype=torch.float64)
        return round(float(total[last.turn])), round(float(total.max()))


def trace(work: Callable[[Turn], None]) -> Trace:
    """Do the work and count. `work` is given a function to call when its backward pass begins."""
    tally = _Tally()
    with tally:
        work(tally.turn)
    return Trace(tuple(tally.history), tally.turned)


class _Tally(TorchDispatchMode):
    """Sees every operation, those of the backward pass too.

    Each storage counts once, from the operation that made it until it is freed. What comes in from
    outside, such as weights, counts nothing.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.live = 0
        self.history: list[int] = []
        self.turned = 0
        self._known: dict[int, weakref.ref[Any]] = {}  # by address

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: keeping torch.compile away would import all of torch._dynamo, and nothing is compiled here."""
        return False

    def turn(self) -> None:
        self.turned = len(self.history)
        self.history.append(self.live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            self._enter(value, made=False)
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            self._enter(value, made=True)
        self.history.append(self.live)
        return result

    def _enter(self, value: object, *, made: bool) -> None:
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes() if made else 0
        if address == 0 or address in self._known:
            return

        def leave(_: object) -> None:
            del self._known[address]
            self.live -= size

        self._known[address] = weakref.ref(storage, leave)
        self.live += size
