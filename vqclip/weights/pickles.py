"""Reads the pickle language as data: names stay names, and the only objects are tensors yet to be read.

There is nothing here that could import or call what a file names. Where Python's own reader makes an
object, this one knows a handful of names that mean a tensor or a container, a list of names that it
lets stand for nothing, and refuses the rest.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, cast

import torch

from vqclip.weights.tensors import RefusedError, Region, Storage

_LARGEST = 8 << 20  # bytes of one pickle; those of the public checkpoints have 20 to 300 kB
_MOST_STEPS = 500_000  # the largest public checkpoints take some 60,000; each costs little time and memory
_MOST_ARGUMENTS = 8

# What training frameworks keep beside the weights. These stand for nothing: no object of theirs is made.
_INERT = {
    "argparse": {"Namespace"}, "collections": {"defaultdict"}, "typing": {"Any"}, "_codecs": {"encode"},
    "builtins": {"dict", "list", "int", "float", "str", "bool"},
    "lightning_fabric.utilities.data": {"AttributeDict"},
    "numpy": {"dtype"}, "numpy.core.multiarray": {"scalar"}, "numpy._core.multiarray": {"scalar"},
    "omegaconf.base": {"ContainerMetadata", "Metadata"},
    "omegaconf.dictconfig": {"DictConfig"},
    "omegaconf.listconfig": {"ListConfig"},
    "omegaconf.nodes": {"AnyNode", "BooleanNode", "FloatNode", "IntegerNode", "StringNode"},
    "pathlib": {"PosixPath", "WindowsPath"}, "torch": {"Size", "device"},
    "pytorch_lightning.callbacks.early_stopping": {"EarlyStopping"},
    "pytorch_lightning.callbacks.model_checkpoint": {"ModelCheckpoint"},
    "pytorch_lightning.utilities.parsing": {"AttributeDict"},
}  # fmt: skip


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names. Only its name: it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return repr(f"{self.module}.{self.name}"[:100])[1:-1]


_DTYPES = {
    Name("torch", f"{name}Storage"): dtype
    for name, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}  # fmt: skip


@dataclass(eq=False)
class Thing:
    """An instance of a named class: what its attributes would be, and nothing of its behaviour."""

    name: Name
    attributes: dict[Any, Any] = field(default_factory=dict)


_MARK = object()


def parse(stream: IO[bytes], storages: dict[str, Storage] | None = None) -> Any:
    """The content of one pickle: dicts, lists, tuples, plain values, Region, Thing and Name.

    Args:
        stream: an open file at the first byte of the pickle; left behind its last one.
        storages: filled with every storage that the pickle mentions, by key.

    Raises:
        RefusedError: damaged, too large, or with a name that no weight file needs.
    """
    machine = _Machine({} if storages is None else storages)
    try:
        steps = pickletools.genops(cast(IO[bytes], _Bounded(stream, _LARGEST)))
        for count, (opcode, argument, _) in enumerate(steps):
            if count >= _MOST_STEPS:
                raise RefusedError("its pickle has more than half a million steps")
            machine.step(opcode.name, argument)
        (content,) = machine.stack
        return content
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, ArithmeticError, struct.error) as error:
        raise RefusedError("its pickle is damaged") from error


class _Bounded:
    """A binary file that refuses to be read further than `budget` bytes, however much is asked for."""

    def __init__(self, stream: IO[bytes], budget: int) -> None:
        self._stream, self._budget = stream, budget

    def read(self, size: int) -> bytes:
        return self._spend(self._stream.read(min(size, self._budget + 1)))

    def readline(self) -> bytes:
        return self._spend(self._stream.readline(self._budget + 1))

    def _spend(self, data: bytes) -> bytes:
        self._budget -= len(data)
        if self._budget < 0:
            raise RefusedError(f"its pickle is larger than {_LARGEST >> 20} MiB")
        return data


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.stack: list[Any] = []
        self._storages = storages
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Do one instruction, named as in `pickletools`."""
        if opcode in _PUSHES:
            self.stack.append(_PUSHES[opcode](argument))
        elif opcode in _FOLDS:
            count, fold = _FOLDS[opcode]
            self.stack.append(fold(self._take(count)))
        elif opcode in _GROWTHS:
            count, grow = _GROWTHS[opcode]
            items = self._take(count)
            grow(self.stack[-1], items)
        elif opcode == "BINPERSID":
            storage = _storage(*self._take(1))
            if self._storages.setdefault(storage.key, storage) != storage:
                raise RefusedError("its pickle describes a storage in two ways")
            self.stack.append(storage)
        elif opcode in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = self.stack[-1]
        elif opcode in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self._memo[argument])
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            raise RefusedError(f"its pickle uses {opcode}, which no weight file needs")

    def _take(self, count: int | None) -> list[Any]:
        """The last `count` values, in order; with None those since the last mark, which goes too."""
        if count is None:
            start = next(i for i in range(len(self.stack) - 1, -1, -1) if self.stack[i] is _MARK)
            items = self.stack[start + 1 :]
            del self.stack[start:]
            return items
        items = self.stack[-count:]
        if len(items) < count or any(item is _MARK for item in items):
            raise IndexError
        del self.stack[-count:]
        return items


def _name(names: Sequence[Any]) -> Name:
    module, name = names
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError
    found = Name(module, name)
    known = name in _INERT.get(module, ()) or found in _MAKERS or found in _DTYPES
    if not known and not f"{module[:10]}.".startswith("__torch__."):  # the classes that TorchScript compiled
        raise RefusedError(f"it names {found}, which no weight file needs; nothing of it was run")
    return found


def _make(items: list[Any]) -> Any:
    """What calling a name with arguments stands for."""
    name, arguments = items
    if not isinstance(name, Name) or not isinstance(arguments, tuple) or name in _DTYPES:
        raise TypeError
    return _MAKERS[name](*arguments[:_MOST_ARGUMENTS]) if name in _MAKERS else Thing(name)


def _region(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Region:
    """A tensor: `torch._utils._rebuild_tensor` and `_v2`, which adds requires_grad and hooks."""
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise TypeError
    return Region(storage, offset, shape, stride)


def _storage(persistent: Any) -> Storage:
    """A persistent id: ("storage", type, key, device, count), in the legacy format one more, None."""
    kind, dtype, key, _, count, *view = persistent[:_MOST_ARGUMENTS]
    if kind != "storage" or not isinstance(key, str) or not isinstance(dtype, Name) or view not in ([], [None]):
        raise TypeError
    return Storage(key, _DTYPES[dtype], count)


def _set(target: Any, items: list[Any]) -> None:
    """Keys and values in turn."""
    if len(items) % 2 or not all(map(_is_key, items[::2])):
        raise TypeError
    if isinstance(target, dict):
        target.update(zip(items[::2], items[1::2], strict=True))
    elif not isinstance(target, Thing):
        raise TypeError


def _is_key(value: Any) -> bool:
    """Plain keys only: nested tuples and endless integers can take for ever to hash."""
    return isinstance(value, str | Name) or (isinstance(value, int) and value.bit_length() < 64)


def _append(target: Any, items: list[Any]) -> None:
    if not isinstance(target, Thing):
        target.extend(items)


def _build(target: Any, items: list[Any]) -> None:
    """Attributes: kept for things; those of an ordered dict (versions of layers) are of no use."""
    if isinstance(target, Thing) and isinstance(items[0], dict):
        target.attributes = items[0]
    elif not isinstance(target, Thing | dict):
        raise TypeError


_PLAIN = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
)  # fmt: skip
# What each pushes onto the stack, given its argument.
_PUSHES: dict[str, Callable[[Any], Any]] = {opcode: lambda value: value for opcode in _PLAIN} | {
    "NONE": lambda _: None, "NEWTRUE": lambda _: True, "NEWFALSE": lambda _: False, "MARK": lambda _: _MARK,
    "EMPTY_LIST": lambda _: [], "EMPTY_DICT": lambda _: {}, "EMPTY_TUPLE": lambda _: (),
    "GLOBAL": lambda names: _name(names.split(" ", 1)),
}  # fmt: skip
# How many values each takes from the stack (None: those since the mark), and what it makes of them.
_FOLDS: dict[str, tuple[int | None, Callable[[list[Any]], Any]]] = {
    "LIST": (None, list), "TUPLE": (None, tuple), "TUPLE1": (1, tuple),
    "TUPLE2": (2, tuple), "TUPLE3": (3, tuple), "STACK_GLOBAL": (2, _name), "REDUCE": (2, _make),
    "NEWOBJ": (2, _make),
}  # fmt: skip
_GROWTHS: dict[str, tuple[int | None, Callable[[Any, list[Any]], None]]] = {
    "APPEND": (1, _append), "APPENDS": (None, _append), "SETITEM": (2, _set), "SETITEMS": (None, _set),
    "BUILD": (1, _build),
}  # fmt: skip
_LISTS = [Name("torch.jit._pickle", f"build_{of}list") for of in ("int", "double", "bool", "tensor")]
_MAKERS: dict[Name, Callable[..., Any]] = {
    Name("collections", "OrderedDict"): lambda: {},  # filled by later steps
    Name("torch._utils", "_rebuild_tensor"): _region,
    Name("torch._utils", "_rebuild_tensor_v2"): _region,
    Name("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    Name("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
    **dict.fromkeys(_LISTS, lambda items: items),
}
