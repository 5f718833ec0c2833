"""Writes the weights of any readable file as safetensors, with what they are and where they come from.

A converted file is smaller (a checkpoint of a VQGAN is two thirds optimizer and training losses), needs no
pickle ever again and says its architecture. No number is changed: the dtypes stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vqclip import images
from vqclip.generators import vqgan
from vqclip.job import InputError, ResourceError, WeightsError
from vqclip.perceptors import clip
from vqclip.weights import checkpoints
from vqclip.weights.regular import opened

FORMAT = "vqclip-1"


def convert(source: Path, target: Path, *, provenance: Mapping[str, str]) -> Path:
    """Write the weights of `source` as a safetensors file at `target`, whole or not at all.

    Args:
        source: what `checkpoints.read` reads.
        target: another file; one that is there is replaced.
        provenance: one-line texts for the metadata, such as "licence" and "url".

    Raises:
        WeightsError: `source` is unreadable, or neither a VQGAN nor a CLIP. InputError: `target` cannot be
            a file. ResourceError: no space.
    """
    if target.is_dir() or (target.exists() and target.samefile(source)):
        raise InputError(f"{target}: is {'a folder' if target.is_dir() else 'the source itself'}; name another file")
    try:
        with opened(source) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{source}: cannot be read ({error.strerror})") from error
    state, metadata = checkpoints.read(source)
    try:
        facts = describe(state, {**metadata, **provenance}, name=source.name, sha256=digest)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    write(state, target, facts)
    return target


def describe(state: Mapping[str, Tensor], metadata: Mapping[str, str], *, name: str, sha256: str) -> dict[str, str]:
    """The metadata of a converted file: `metadata` of the source and what its state dict says.

    Adds format, kind ("vqgan" or "clip"), architecture (JSON), source (`name`), source_sha256 (`sha256`),
    and licence where it is not given.

    Raises:
        WeightsError: neither a VQGAN of taming's layout nor a CLIP of OpenAI's.
    """
    kind, architecture = _architecture(state, metadata)
    facts = {"licence": "unknown; ask who published the source", **metadata}
    facts |= {"format": FORMAT, "kind": kind, "source": name, "source_sha256": sha256}
    return {"architecture": json.dumps(architecture), **facts}


def _architecture(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, dict[str, object]]:
    if "decoder.conv_in.weight" in state:
        shape = asdict(vqgan.infer_architecture(state, groups=vqgan.groups_of(metadata)))
        return "vqgan", {"norm_groups": shape.pop("groups"), **shape}
    try:
        return "clip", clip.infer_arguments(state)
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"neither a VQGAN of taming's layout nor a CLIP of OpenAI's ({error} is missing)") from error


def write(state: Mapping[str, Tensor], target: Path, metadata: Mapping[str, str]) -> None:
    """Write a state dict as safetensors file, whole or not at all; "tensors_sha256" is added to its metadata.

    Raises:
        ResourceError: with the reason of the system.
    """
    part = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = images.beside(target)
        save_file(_separate(state), part, {**metadata, "tensors_sha256": digest_of(state)})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except (OSError, SafetensorError) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ResourceError(f"{target} cannot be written ({said})") from error
    finally:
        with contextlib.suppress(OSError):  # not there, which is as it should be
            if part is not None:
                part.unlink()


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor in memory of its own: the format knows no views."""
    seen: set[int] = set()
    made = {}
    for key, given in state.items():
        value = given.contiguous()
        storage = value.untyped_storage()
        shared = storage.nbytes() != value.nbytes or storage.data_ptr() in seen
        seen.add(storage.data_ptr())
        made[key] = value.clone() if shared else value
    return made


def digest_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes of a state dict: what the format itself does not check."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().contiguous()
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def latents_of(generator: Mapping[str, Tensor]) -> str:
    """Digest of what says what a VQGAN's latents mean: its state dict but for the decoder, which may learn further."""
    return digest_of({name: value for name, value in generator.items() if not vqgan.is_decoders(name)})
