"""Zip files: torch's own (checkpoints and TorchScript models alike), and those that just wrap a checkpoint.

Checks what an archive claims before anything is unpacked. Of a TorchScript model only the tensors are
read, its program is not.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import zipfile
from pathlib import PurePosixPath
from typing import IO

from vqclip.job import ResourceError
from vqclip.weights import pickles
from vqclip.weights.tensors import Opened, RefusedError, Storage

MAGIC = b"PK\x03\x04"
_LARGEST_DIRECTORY = 4 << 20  # bytes; the archives in use have some 1500 members, 0.2 MB
_STEEPEST = 50  # times that a checkpoint may grow when unpacked; weights hardly shrink, nonsense does
_PIECE = 1 << 20
_SUFFIXES = {".ckpt", ".pt", ".pth", ".bin", ".safetensors"}


class Archive:
    """An open zip file of weights whose directory is sound: no member twice, none outside, none overlapping."""

    def __init__(self, file: IO[bytes]) -> None:
        size = file.seek(0, 2)
        _check_directory(file, size)
        self._zip = zipfile.ZipFile(file)
        self._members = {member.filename: member for member in self._zip.infolist()}
        if len(self._members) != len(self._zip.infolist()):
            raise RefusedError("a zip archive that names a member twice")
        if sum(member.compress_size for member in self._members.values()) > size:
            raise RefusedError("a zip archive whose members overlap or lie outside of it")
        if any(member.flag_bits & 1 for member in self._members.values()):
            raise RefusedError("an encrypted zip archive")
        roots = [name.removesuffix("data.pkl") for name in self._members if _is_pickle(name)]
        if len(roots) > 1:
            raise RefusedError(f"a zip archive of {len(roots)} checkpoints")
        self._root = roots[0] if roots else None

    @property
    def is_torch(self) -> bool:
        """Whether torch wrote it, as opposed to an archive that wraps a file."""
        return self._root is not None

    def open(self) -> Opened:
        """What `torch.save` or `torch.jit.save` put in, all storages there and of the right size."""
        order, storages = f"{self._root}byteorder", dict[str, Storage]()
        if order in self._members and self._zip.open(self._stored(order)).read(16) != b"little":
            raise RefusedError("written on a big-endian machine, which is not supported")
        content = pickles.parse(self._zip.open(self._stored(f"{self._root}data.pkl")), storages)
        places = {key: self._stored(f"{self._root}data/{key}", storage.nbytes) for key, storage in storages.items()}
        return Opened(content, lambda storage: self._zip.open(places[storage.key]), {})

    def _stored(self, name: str, size: int | None = None) -> zipfile.ZipInfo:
        """A member that torch never compresses, so that it is what it claims to be in size."""
        member = self._members.get(name)
        if member is None:
            raise RefusedError("a torch archive without all of its parts")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise RefusedError("a torch archive that was compressed; unpack and store it, or convert it to safetensors")
        if size is not None and member.file_size != size:
            raise RefusedError(f"a tensor of {size} bytes is stored in {member.file_size}")
        return member

    def unwrap(self, *, limit: int) -> IO[bytes]:
        """The one checkpoint inside an archive that torch did not write, unpacked to a temporary file.

        Raises:
            RefusedError: none or several, larger than `limit` bytes, or compressed beyond belief.
            ResourceError: no room for temporary files.
        """
        files = [member for member in self._members.values() if not member.is_dir()]
        named = [member for member in files if PurePosixPath(member.filename).suffix.lower() in _SUFFIXES]
        if len(named or files) != 1:
            raise RefusedError(f"a zip archive of {len(files)} files, not of one checkpoint")
        (member,) = named or files
        size = member.file_size
        if size > limit:
            raise RefusedError(f"unpacks to {size} bytes; at most {limit} are read")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RefusedError("a zip archive with a compression other than deflate")
        if size > _STEEPEST * max(member.compress_size, 1):
            raise RefusedError(f"{member.compress_size} bytes that unpack to {size} are no weights")
        return _unpack(self._zip.open(member), size)


def _is_pickle(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")


def _unpack(source: IO[bytes], size: int) -> IO[bytes]:
    folder = tempfile.gettempdir()
    if shutil.disk_usage(folder).free < size:
        raise ResourceError(f"{folder} has no room for {size / 1e6:.0f} MB; free some or set TMPDIR to another folder")
    target = tempfile.NamedTemporaryFile(dir=folder, prefix="vqclip-")  # noqa: SIM115  # the reader closes it, which deletes it
    try:
        while piece := source.read(_PIECE):
            target.write(piece)
        target.flush()  # safetensors opens it by its name
        target.seek(0)
    except OSError as error:
        target.close()
        raise ResourceError(f"{folder} cannot hold {size / 1e6:.0f} MB ({error.strerror or error})") from error
    return target


def _check_directory(file: IO[bytes], size: int) -> None:
    """The directory lies at the very end and is small: zipfile reads it whole.

    Layout: .ZIP file format specification (PKWARE APPNOTE), 4.3.14 to 4.3.16; the 64-bit end record
    and its locator lie before the end record where the archive or its directory is large.
    """
    file.seek(max(size - 98, 0))
    tail = file.read(98).rjust(98, b"\0")
    wide, locator, end = tail[:56], tail[56:76], tail[76:]
    if not end.startswith(b"PK\x05\x06") or end[20:] != b"\0\0":
        raise RefusedError("a zip archive that was cut off, or that has something after its end")
    (length,) = struct.unpack("<I", end[12:16])
    if locator.startswith(b"PK\x06\x07") and wide.startswith(b"PK\x06\x06"):
        (length,) = struct.unpack("<Q", wide[40:48])
    if length > _LARGEST_DIRECTORY:
        raise RefusedError(f"a zip archive with a directory of {length} bytes; at most {_LARGEST_DIRECTORY} are read")
