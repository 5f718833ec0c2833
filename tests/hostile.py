"""Weight files made to harm, some 250 of them: calls in every place, sizes that lie, bombs, endless loops."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import forge
from forge import entry, mapping, name, number, pickled, safetensors, storage, tensor, text, torch_zip, zipped

LIMIT = 64 << 20  # bytes
CANARY = str(Path(tempfile.gettempdir()) / f"vqclip-canary-{os.getpid()}")

SHELL = f"touch {CANARY}"
PYTHON = f"open({CANARY!r}, 'w')"
# What the pickles call, and the text that they call it with.
CALLS = {
    "os.system": SHELL, "posix.system": SHELL, "nt.system": SHELL, "os.popen": SHELL, "os.mkdir": CANARY,
    "subprocess.getoutput": SHELL, "subprocess.Popen": SHELL, "commands.getoutput": SHELL, "pty.spawn": SHELL,
    "builtins.eval": PYTHON, "builtins.exec": PYTHON, "builtins.compile": PYTHON, "builtins.open": CANARY,
    "builtins.__import__": "os", "builtins.getattr": "os", "__builtin__.eval": PYTHON, "builtins.map": PYTHON,
    "functools.partial": PYTHON, "operator.attrgetter": "system", "operator.methodcaller": "system",
    "importlib.import_module": "os", "runpy.run_path": CANARY, "timeit.timeit": PYTHON, "cProfile.run": PYTHON,
    "pdb.run": PYTHON, "code.interact": PYTHON, "ctypes.CDLL": CANARY, "shutil.rmtree": CANARY,
    "socket.create_connection": "127.0.0.1", "webbrowser.open": "http://127.0.0.1", "pickle.loads": PYTHON,
    "torch.load": CANARY, "torch.hub.load": CANARY, "torch.serialization.load": CANARY, "torch.jit.load": CANARY,
    "torch.storage._load_from_bytes": PYTHON, "torch.utils.cpp_extension.load": PYTHON, "numpy.load": CANARY,
    "numpy.testing._private.utils.runstring": PYTHON, "pathlib.Path.unlink": CANARY, "bdb.Bdb.run": PYTHON,
    "collections.OrderedDict.__init__": PYTHON, "collections.namedtuple": PYTHON, "torch.nn.Module": PYTHON,
    "torch._utils._rebuild_sparse_tensor": PYTHON, "__torch__x.Evil": PYTHON, "__main__.Evil": PYTHON,
    "vqclip.weights.fetch.download": CANARY, "pytorch_lightning.callbacks.Callback": PYTHON, "omegaconf.resolve": "x",
}  # fmt: skip
INNOCENT = {"state_dict": mapping({"a": tensor()})}


def call(dotted: str, argument: str) -> bytes:
    return name(dotted) + b"(" + text(argument) + b"tR"


def opcodes() -> dict[str, bytes]:
    """Every way to name and call a function that the pickle language knows."""
    module, _, attribute = b"os", b".", b"system"
    named = b"c" + module + b"\n" + attribute + b"\n"
    return {
        "reduce": call("os.system", SHELL),
        "stack global": b"\x8c\x02os\x8c\x06system\x93(" + text(SHELL) + b"tR",
        "inst": b"(" + text(SHELL) + b"ios\nsystem\n",
        "obj": b"(" + named + text(SHELL) + b"o",
        "newobj": named + text(SHELL) + b"\x85\x81",
        "newobj_ex": named + text(SHELL) + b"\x85}\x92",
        "build": b"ccollections\nOrderedDict\n)R}" + text("__setstate__") + named + b"sb",
        "build a name": name("collections.OrderedDict") + b"}" + text("__call__") + text(SHELL) + b"sb",
        "extension": b"\x82\x01",
        "memo": named + b"q\0" + b"0h\0(" + text(SHELL) + b"tR",
        "persistent text": b"Pos.system\n",
        "a storage called": name("torch.FloatStorage") + b"(" + number(10**12) + b"tR",
        "a container called": name("collections.OrderedDict") + b"(" + text(SHELL) + b"tR",
    }


def places() -> dict[str, bytes]:
    """Where in a checkpoint that otherwise looks right a call can hide."""
    evil = call("os.system", SHELL)
    inert = name("omegaconf.dictconfig.DictConfig") + b")\x81}" + text("_content") + evil + b"sb"
    hooks = (
        name("torch._utils._rebuild_tensor_v2") + b"(" + storage() + b"K\0" + forge.numbers([4]) + forge.numbers([1])
    )
    return {
        "beside": mapping(INNOCENT | {"hyper_parameters": evil}),
        "in a list": mapping(INNOCENT | {"callbacks": b"](N" + evil + b"e"}),
        "in a tuple": mapping(INNOCENT | {"callbacks": evil + b"\x85"}),
        "as a key": mapping(INNOCENT | {"callbacks": b"}" + evil + b"Ns"}),
        "in the state dict": mapping({"state_dict": mapping({"a": tensor(), "b": evil})}),
        "in the attributes": mapping(INNOCENT) + b"}" + text("_metadata") + evil + b"sb",
        "in a thing": mapping(INNOCENT | {"config": inert}),
        "as hooks": mapping({"a": hooks + b"\x89" + evil + b"tR"}),
        "as a storage": mapping({"a": tensor(evil)}),
        "as a persistent id": mapping({"a": evil + b"Q"}),
        "popped": evil + b"0" + mapping(INNOCENT),
        "as the type of a storage": b"(" + text("storage") + evil + text("0") + text("cpu") + b"K\4tQ",
        "in TorchScript": name("__torch__.Net") + b")\x81" + mapping({"a": tensor(), "b": evil}) + b"b",
    }


def shapes() -> dict[str, bytes]:
    """Tensors that do not lie in their storage."""
    plain = {
        "past the end": tensor(shape=[5]),
        "offset": tensor(offset=1),
        "stride": tensor(shape=[3], stride=[2]),
        "broadcast": tensor(shape=[10**9], stride=[0]),
        "broadcast twice": tensor(shape=[4, 9], stride=[1, 0]),
        "negative offset": tensor(offset=-1),
        "negative side": tensor(shape=[-1]),
        "negative stride": tensor(stride=[-1]),
        "more strides": tensor(stride=[1, 1]),
        "endless": tensor(shape=[1 << 62]),
        "wrapping": tensor(shape=[1 << 33] * 2),
        "beyond 64 bits": tensor(shape=[1 << 70]),
        "many axes": tensor(shape=[1] * 99, stride=[1] * 99),
        "larger storage": tensor(storage(count=5)),
        "negative storage": tensor(storage(count=-4)),
        "endless storage": tensor(storage(count=1 << 62)),
        "other width": tensor(storage(kind="torch.DoubleStorage")),
        "unknown type": tensor(storage(kind="torch.Storage")),
        "typed": tensor(storage(kind="torch.storage.UntypedStorage")),
        "missing": tensor(storage("1")),
        "climbing": tensor(storage("../../../etc/passwd")),
    }
    two = mapping({"a": tensor(), "b": tensor(storage(kind="torch.IntStorage"))})
    return {"two ways": two} | {key: mapping({"a": code}) for key, code in plain.items()}


def doubling(levels: int) -> bytes:
    """A tree of 2^levels modules, told in a few bytes a level."""
    attributes = doubling(levels - 1) + b"q" + bytes([levels]) if levels else b""
    twice = text("a") + attributes + text("b") + b"h" + bytes([levels]) if levels else b""
    return name("__torch__.Net") + b")\x81}(" + twice + b"ub"


def pickles() -> dict[str, bytes]:
    """Pickles that are costly or broken rather than evil."""
    doubled = b"K\1" + b"q\0h\0\x86" * 200  # a tuple of 2^200 numbers, told in 800 bytes
    return {
        "hashing for ever": b"}" + doubled + b"Ns",
        "naming for ever": doubled + text("x") + b"\x93",
        "typing for ever": b"(" + text("storage") + doubled + text("0") + text("cpu") + b"K\4tQ",
        "memo far out": b"Nr\xff\xff\xff\x7f.",
        "bytes of 8 EB": b"\x8e" + struct.pack("<Q", 1 << 62),
        "text of 4 GB": b"X\xff\xff\xff\xff",
        "negative length": b"\x8b\xff\xff\xff\xff",
        "bytearray": b"\x96" + struct.pack("<Q", 1 << 40),
        "frame of 8 EB": b"\x95" + struct.pack("<Q", 1 << 62) + b"X\xff\xff\xff\x7f",
        "half a million steps": b"N" + b"q\0" * 510_000,
        "half a million things": b"}" * 510_000,
        "half a million marks": b"(" * 510_000,
        "too long": text("x" * (9 << 20)),
        "too deep": b"(" * 200_000 + b"t" * 200_000,
        "decimal for ever": b"I" + b"9" * 5_000_000 + b"\n",
        "unknown code": b"\xff",
        "nothing on the stack": b"s",
        "two results": b"NN",
        "contains itself": b"}q\0" + text("state_dict") + b"h\0s",
        "a circle of modules": name("__torch__.Net") + b")\x81q\0}" + text("m") + b"h\0sb",
        "modules by the power": doubling(28),
        "unprintable name": mapping({"a\x1b[2J": tensor()}),
        "broken name": mapping({"\ud800": tensor()}),
        "long name": mapping({"a" * 1000: tensor()}),
        "many tensors": b"}("
        + text("x")
        + tensor()
        + b"q\0"
        + b"".join(text(f"{i}") + b"h\0" for i in range(30_000))
        + b"u",
    }


def archive(change: Callable[[bytearray], None]) -> bytes:
    """A sound checkpoint with a few bytes of its directory changed."""
    data = bytearray(torch_zip(mapping(INNOCENT)))
    change(data)
    return bytes(data)


def directory(data: bytearray, offset: int, value: int, width: int = 4) -> None:
    """Change a field of the entry for the storage, which is the last."""
    start = data.rindex(b"PK\x01\x02")
    data[start + offset : start + offset + width] = value.to_bytes(width, "little")


def wide(data: bytearray) -> None:
    """Append a 64-bit end record with a directory of 4 EB."""
    end, start = bytes(data[-22:]), len(data) - 22
    data[-22:] = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 1 << 62, 0)
    data += struct.pack("<4sIQI", b"PK\6\7", 0, start, 1) + end


def twice() -> bytes:
    """Two members of one name, which two readers may tell apart differently."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for code in (mapping(INNOCENT), call("os.system", SHELL)):
            file.writestr(zipfile.ZipInfo("archive/data.pkl"), pickled(code))
    return made.getvalue()


def zips() -> dict[str, bytes]:
    sound = torch_zip(mapping(INNOCENT))
    bomb = zipped({"model.ckpt": bytes(100_000_000)}, deflate=True)
    root = pickled(mapping(INNOCENT))
    return {
        "bomb": bomb,
        "small bomb": zipped({"model.ckpt": bytes(40_000_000)}, deflate=True),
        "no end": zipped({"a/data.pkl": b"\x80\x02}"}),
        "bomb in a torch archive": torch_zip(
            mapping({"a": tensor(storage(count=25_000_000), shape=[25_000_000])}),
            {"0": bytes(100_000_000)},
            deflate=True,
        ),
        "bomb as a pickle": zipped({"a/data.pkl": pickled(b"]" + b"]a" * 10_000_000)}, deflate=True),
        "bomb in a bomb": zipped({"model.zip": zipped({"model.ckpt": bomb})}),
        "zip in a zip": zipped({"model.ckpt": zipped({"model.ckpt": sound})}),
        "larger than the limit": zipped({"model.ckpt": os.urandom(1 << 20) * 65}),
        "wrapped call": zipped({"model.ckpt": torch_zip(call("os.system", SHELL))}, deflate=True),
        "says smaller": archive(lambda data: directory(data, 24, 8)),
        "says larger": archive(lambda data: directory(data, 24, 1 << 30)),
        "both larger": archive(lambda data: (directory(data, 20, 1 << 30), directory(data, 24, 1 << 30))[0]),
        "starts elsewhere": archive(lambda data: directory(data, 42, 0)),
        "starts outside": archive(lambda data: directory(data, 42, 1 << 30)),
        "encrypted": archive(lambda data: directory(data, 8, 1, 2)),
        "odd compression": archive(lambda data: directory(data, 10, 99, 2)),
        "wrong checksum": archive(lambda data: directory(data, 16, 7)),
        "huge directory": archive(lambda data: data.__setitem__(slice(-10, -6), b"\xff\xff\xff\x7f")),
        "huge wide directory": archive(wide),
        "something behind": sound + b"\x80\x02" + call("os.system", SHELL) + b".",
        "cut": sound[:-30],
        "twice": twice(),
        "two checkpoints": zipped({"a/data.pkl": root, "b/data.pkl": root}),
        "no storage": zipped({"a/data.pkl": root}),
        "big-endian": zipped({"a/data.pkl": root, "a/data/0": bytes(16), "a/byteorder": b"big"}),
        "only folders": zipped({"a/": b"", "b/": b""}),
        "climbing": zipped({"../../evil.txt": b"x" * 100}),
    }


def legacies() -> dict[str, bytes]:
    code = mapping({"a": tensor(storage(legacy=True))})
    sound = forge.legacy(code, {"0": bytes(16)})
    view = (
        b"("
        + text("storage")
        + name("torch.FloatStorage")
        + text("0")
        + text("cpu")
        + b"K\4"
        + forge.numbers([0, 0, 9])
    )
    return {
        "call": forge.legacy(call("os.system", SHELL), {}),
        "call in the magic": pickled(call("os.system", SHELL)),
        "call in the machine": forge.MAGIC + forge.VERSION + pickled(call("os.system", SHELL)),
        "call in the order": sound[: sound.rindex(b"\x80\x02")] + pickled(call("os.system", SHELL)),
        "module source": forge.legacy(b"(" + text("module") + name("os.system") + text("x") + text(PYTHON) + b"tQ", {}),
        "view": forge.legacy(mapping({"a": tensor(view + b"tQ")}), {"0": bytes(16)}),
        "count": forge.legacy(code, {"0": bytes(20)}),
        "count of 2^63": sound[:-24] + b"\xff" * 8 + bytes(16),
        "endless": forge.legacy(mapping({"a": tensor(storage(count=1 << 39, legacy=True))}), {"0": b""})[:-8]
        + struct.pack("<q", 1 << 39)
        + bytes(16),
        "hashing for ever": sound[: sound.rindex(b"\x80\x02")] + pickled(b"]K\1" + b"q\0h\0\x86" * 200 + b"a"),
        "cut": sound[:-1],
        "more keys": forge.legacy(code, {"0": bytes(16), "1": bytes(16)}),
        "other key": forge.legacy(code, {"7": bytes(16)}),
        "big-endian": sound.replace(b"\x88s.", b"\x89s.", 1),
        "other magic": sound.replace(b"l\xfc", b"l\xfd", 1),
    }


def headers() -> dict[str, bytes]:
    four = bytes(16)
    odd = {"dtype": "F32", "shape": [4]}
    return {
        "not JSON": safetensors(b"{nonsense"),
        "a list": safetensors(b"[1]" + b" " * 9),
        "a number": safetensors(b"{}1"),
        "length of 2^63": b"\xff" * 8 + b"{}",
        "longer than the file": struct.pack("<Q", 999) + b'{"a":1}',
        "99 MB": safetensors(b"{" + b" " * 99_000_000 + b"}"),
        "entries without end": safetensors(b'{"a":[' + b"{}," * 600_000),
        "nested": safetensors(b'{"a":' * 400_000),
        "overlap": safetensors({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)),
        "same place": safetensors({"a": entry([4], 0, 16), "b": entry([4], 0, 16)}, four),
        "gap": safetensors({"a": entry([4], 4, 20)}, bytes(20)),
        "outside": safetensors({"a": entry([4], 0, 16)}, bytes(8)),
        "negative": safetensors({"a": entry([4], -16, 0)}, four),
        "reversed": safetensors({"a": entry([4], 16, 0)}, four),
        "fractions": safetensors({"a": entry([4], 0.0, 16.0)}, four),
        "truths": safetensors({"a": entry([True] * 2, 0, 4)}, bytes(4)),
        "one offset": safetensors({"a": {**odd, "data_offsets": [0]}}, four),
        "no offset": safetensors({"a": odd}, four),
        "shape too small": safetensors({"a": entry([3], 0, 16)}, four),
        "shape too large": safetensors({"a": entry([5], 0, 16)}, four),
        "overflow": safetensors({"a": entry([1 << 62, 4], 0, 0)}),
        "wrapping": safetensors({"a": entry([1 << 32] * 2, 0, 0)}),
        "negative side": safetensors({"a": entry([-4], 0, 16)}, four),
        "text as shape": safetensors({"a": {**entry([], 0, 4), "shape": "x"}}, four),
        "many axes": safetensors({"a": entry([1] * 500_000, 0, 4)}, bytes(4)),
        "no type": safetensors({"a": entry([4], 0, 16, "F99")}, four),
        "type as a list": safetensors({"a": {**entry([4], 0, 16), "dtype": ["F32"]}}, four),
        "key twice": safetensors(
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
            four,
        ),
        "bytes behind": safetensors({"a": entry([4], 0, 16)}, bytes(17)),
        "cut": safetensors({"a": entry([4], 0, 16)}, bytes(15)),
        "odd metadata": safetensors({"__metadata__": {"a": 1}, "b": entry([4], 0, 16)}, four),
        "empty": safetensors({}),
        "more than the limit": safetensors({"a": entry([LIMIT // 4 + 1], 0, LIMIT + 4)}, bytes(LIMIT + 4)),
        "odd name": safetensors({"a\nb": entry([4], 0, 16)}, four),
        "endless number": safetensors(b'{"a":' + b"9" * 100_000 + b"}"),
        "a pickle behind": safetensors({"a": entry([4], 0, 16)}, four) + pickled(call("os.system", SHELL)),
    }


def corpus() -> dict[str, bytes]:
    """Every hostile file by name; odd names, so that no suffix says what is inside."""
    files = {f"call {dotted}.safetensors": torch_zip(call(dotted, argument)) for dotted, argument in CALLS.items()}
    files |= {f"legacy call {dotted}.png": forge.legacy(call(dotted, text), {}) for dotted, text in CALLS.items()}
    groups = {"opcode": opcodes(), "place": places(), "shape": shapes(), "pickle": pickles()}
    for group, codes in groups.items():
        files |= {f"{group} {key}.ckpt": torch_zip(code) for key, code in codes.items()}
    files["raw pickle.pt"] = pickled(call("os.system", SHELL))
    files["raw pickle of text.pt"] = b"cos\nsystem\n(S'" + SHELL.encode() + b"'\ntR."
    for group, made in {"zip": zips(), "legacy": legacies(), "header": headers()}.items():
        files |= {f"{group} {key}.bin": data for key, data in made.items()}
    return files
