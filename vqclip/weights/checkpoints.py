"""Reads the tensors of any weight file that VQGANs and CLIPs come in, deciding by content, running nothing.

safetensors; checkpoints of torch, zip and legacy, bare or under "state_dict", alone or as the first stage
of a larger model; TorchScript archives; zip files around any of these. Every size that a file declares is
checked before memory is taken for it, and only tensors that are wanted are read. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile
from zlib import error as ZlibError

from torch import Tensor

from vqclip.generators.vqgan import PARTS
from vqclip.job import ResourceError, WeightsError
from vqclip.weights import archives, flat
from vqclip.weights.pickles import Thing
from vqclip.weights.regular import opened
from vqclip.weights.tensors import LIMIT, RefusedError, Region, read_regions

_MOST_TENSORS = 20_000  # the largest public checkpoints have some 3000
_MOST_ATTRIBUTES = 200_000  # of a TorchScript model with all its modules
_DEEPEST = 32  # modules within modules
_LONGEST_NAME = 300
_FIRST_STAGE = "first_stage_model."  # of a Net2NetTransformer or a latent diffusion model


def read(
    path: Path, *, limit: int = LIMIT, parts: tuple[str, ...] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict of a weight file and, where it is a safetensors file, its metadata.

    Of a VQGAN only the parts of the generator are kept: no training losses, no optimizer, no transformer
    that it was the first stage of. Tensors keep their dtype.

    Args:
        path: a regular file of any kind; its content decides.
        limit: bytes that the tensors may take in memory, and a wrapped checkpoint on disk.
        parts: what the names of the wanted tensors begin with, for models that are no VQGAN on their own:
            exactly those are kept, under their full names.

    Raises:
        WeightsError: not readable, damaged, too large, or more than plain tensors. ResourceError: no
            room to unpack an archive, or no memory.
    """
    shown = str(path) if str(path).isprintable() else repr(str(path))
    try:
        with opened(path) as file:
            return _read(file, limit, parts)
    except ResourceError:  # a RuntimeError too
        raise
    except RefusedError as error:
        raise WeightsError(f"{shown}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{shown}: cannot be read ({error.strerror or error})") from error
    except (BadZipFile, ZlibError, EOFError, ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
        said = " ".join(ascii(str(error))[1:-1].split())[:200]
        raise WeightsError(f"{shown}: damaged ({said or type(error).__name__})") from error


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with `head` (nine bytes or more) is meant as safetensors."""
    return head[8:9] == b"{"  # after 8 bytes of header length


def _read(
    file: IO[bytes], limit: int, parts: tuple[str, ...] | None, *, wrapped: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    head = file.read(64)
    file.seek(0)
    if head.startswith(archives.MAGIC):
        archive = archives.Archive(file)
        if not archive.is_torch and wrapped:  # some archives contain themselves
            raise RefusedError("a zip archive in a zip archive")
        if not archive.is_torch:
            with archive.unwrap(limit=limit) as inner:
                return _read(inner, limit, parts, wrapped=True)
        found = archive.open()
    elif is_safetensors(head):
        found = flat.open_safetensors(file)
    elif head.startswith(b"\x80"):  # a pickle of protocol 2 or later
        found = flat.open_legacy(file)
    else:
        page = ": it is a web page, perhaps of a failed download" if head.lstrip().startswith(b"<") else ""
        raise RefusedError(f"neither a safetensors file nor a torch checkpoint{page}")
    regions = _checked(_named(found.content))
    regions = _generator_only(regions) if parts is None else _only(regions, parts)
    return read_regions(regions, found.open_storage, limit=limit), dict(found.metadata)


def _named(content: Any) -> dict[str, Region]:
    """The tensors of a state dict, of the dict that holds it as "state_dict", or of a TorchScript model."""
    if isinstance(content, Thing):
        return _attributes(content)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        kind = "tensor" if isinstance(content, Region) else type(content).__name__
        raise RefusedError(f"holds a {kind}, not a mapping of tensors")
    return {key: value for key, value in content.items() if isinstance(value, Region)}


def _attributes(root: Thing) -> dict[str, Region]:
    """Parameters and buffers of a TorchScript module tree under the names that its state dict has."""
    found: dict[str, Region] = {}
    todo: list[tuple[tuple[str, ...], Thing]] = [((), root)]
    seen = 0
    while todo:
        path, module = todo.pop()
        seen += 1 + len(module.attributes)
        if seen > _MOST_ATTRIBUTES or len(path) > _DEEPEST:
            raise RefusedError("a TorchScript model with too many parts")
        for name, value in module.attributes.items():
            if isinstance(value, Thing):
                todo.append(((*path, name), value))
            elif isinstance(value, Region):
                found[".".join((*path, name))] = value
    return found


def _checked(regions: dict[str, Region]) -> dict[str, Region]:
    if not regions:
        raise RefusedError("holds no tensors")
    if len(regions) > _MOST_TENSORS:
        raise RefusedError(f"{len(regions)} tensors; at most {_MOST_TENSORS} are read")
    for key in regions:
        if not isinstance(key, str) or not key.isprintable() or len(key) > _LONGEST_NAME:
            raise RefusedError(f"a tensor by the name of {ascii(key)[:80]}")
    return regions


def _only(regions: Mapping[str, Region], parts: tuple[str, ...]) -> dict[str, Region]:
    kept = {key: value for key, value in regions.items() if key.startswith(parts)}
    if not kept:
        names = f"{', '.join(parts)}; it begins with {next(iter(regions))[:80]!r}"
        raise RefusedError(f"holds no tensor whose name begins with {names}")
    return kept


def _generator_only(regions: Mapping[str, Region]) -> dict[str, Region]:
    """Of a VQGAN, also of one inside another model, what makes pictures; of anything else, all."""
    if any(key.startswith(_FIRST_STAGE) for key in regions):
        regions = {k.removeprefix(_FIRST_STAGE): v for k, v in regions.items() if k.startswith(_FIRST_STAGE)}
    if {"decoder", "quantize"} <= {key.split(".")[0] for key in regions}:
        regions = {k: v for k, v in regions.items() if k.startswith(PARTS) and k != "quantize.used"}
    return dict(regions)
