"""Weight files made by hand, byte by byte: the ones that torch would write, and the ones it never would."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
VERSION = b"\x80\x02M\xe9\x03."
MACHINE = b"\x80\x02}X\r\x00\x00\x00little_endian\x88s."


def text(value: str) -> bytes:
    """Pickle code that pushes a string."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """Pickle code that pushes an integer of any size."""
    return b"I%d\n" % value


def numbers(values: Sequence[int]) -> bytes:
    """Pickle code that pushes a tuple of integers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def name(dotted: str) -> bytes:
    """Pickle code that pushes a class or function."""
    module, _, attribute = dotted.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def mapping(entries: Mapping[str, bytes]) -> bytes:
    """Pickle code that pushes a dict of values that are code themselves."""
    return b"}(" + b"".join(text(key) + code for key, code in entries.items()) + b"u"


def storage(key: str = "0", count: int = 4, kind: str = "torch.FloatStorage", legacy: bool = False) -> bytes:
    """Pickle code that pushes a storage of `count` numbers."""
    tail = b"N" if legacy else b""
    return b"(" + text("storage") + name(kind) + text(key) + text("cpu") + number(count) + tail + b"tQ"


def tensor(
    source: bytes | None = None, *, shape: Sequence[int] = (4,), stride: Sequence[int] = (1,), offset: int = 0
) -> bytes:
    """Pickle code that pushes a tensor, by default of 4 numbers in storage "0"."""
    source = storage() if source is None else source
    code = name("torch._utils._rebuild_tensor_v2") + b"(" + source + number(offset) + numbers(shape) + numbers(stride)
    return code + b"\x89" + name("collections.OrderedDict") + b")Rt" + b"R"


def pickled(code: bytes) -> bytes:
    """A whole pickle of protocol 2."""
    return b"\x80\x02" + code + b"."


def torch_zip(code: bytes, storages: Mapping[str, bytes] | None = None, *, deflate: bool = False) -> bytes:
    """A checkpoint as torch.save writes it since 1.6, by default with storage "0" of 4 float32."""
    members = {"archive/data.pkl": pickled(code), "archive/version": b"3\n"}
    for key, data in ({"0": bytes(16)} if storages is None else storages).items():
        members[f"archive/data/{key}"] = data
    return zipped(members, deflate=deflate)


def zipped(members: Mapping[str, bytes], *, deflate: bool = False) -> bytes:
    """A zip archive."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED, compresslevel=1) as file:
        for member, data in members.items():
            file.writestr(zipfile.ZipInfo(member), data, file.compression)
    return made.getvalue()


def legacy(code: bytes, storages: Mapping[str, bytes], *, width: int = 4) -> bytes:
    """A checkpoint as torch.save wrote it before 1.6; `width` bytes a number."""
    order = pickled(b"](" + b"".join(map(text, storages)) + b"e")
    data = b"".join(struct.pack("<q", len(value) // width) + value for value in storages.values())
    return MAGIC + VERSION + MACHINE + pickled(code) + order + data


def safetensors(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file with any header: bytes as they are, anything else as JSON."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(shape: Sequence[Any], start: Any, stop: Any, dtype: str = "F32") -> dict[str, Any]:
    """One tensor of a safetensors header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
