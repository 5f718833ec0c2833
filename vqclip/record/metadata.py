"""Writes into a picture or film how it was made, and reads that back as carefully as any untrusted file.

Knows the envelope only: what stands in `config` is checked by whoever builds a run from it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vqclip.job import InputError, Job, Prompt
from vqclip.record import containers
from vqclip.record.containers import KEY, PARAMETERS
from vqclip.record.folder import to_json

SCHEMA = 2
MAX_FILE = 256 << 20  # bytes; 4096x4096 with 16 bits and alpha stays below
MAX_TEXT = 1 << 20  # bytes
MAX_DEPTH = 16
MAX_NODES = 20_000
_FIELDS: Mapping[str, type] = {
    "schema": int, "config": dict, "seed": int, "versions": dict, "weights": dict, "files": dict, "machine": dict,
}  # fmt: skip
_SINCE_2 = ("files", "machine")
_TEXTS = ("versions", "weights", *_SINCE_2)  # these map texts to texts


def embed(
    *,
    job: Job,
    config: Mapping[str, Any],
    versions: Mapping[str, str],
    weights: Mapping[str, str],
    files: Mapping[str, str] = MappingProxyType({}),
    machine: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """The texts of a picture: `vqclip` (JSON, see `read`) and `parameters` for other programs.

    `config` is the resolved config of this one picture as plain JSON values, `versions` maps packages, `weights` maps
    roles and `files` the keys of other files to SHA-256, `machine` says where and how it was computed. Raises
    ValueError for values that JSON cannot hold or for a text that `read` would refuse.
    """
    envelope = {
        "schema": SCHEMA,
        "config": dict(config),
        "seed": job.seed,
        "versions": dict(versions),
        "weights": dict(weights),
        "files": dict(files),
        "machine": dict(machine),
    }
    text = to_json(envelope)
    try:
        _parse(text)
    except InputError as error:
        raise ValueError(f"these facts cannot be embedded: {error}") from error
    return {KEY: text, PARAMETERS: parameters(job, versions)}


def parameters(job: Job, versions: Mapping[str, str]) -> str:
    """The job in the three-line layout that AUTOMATIC1111's web UI introduced and most viewers show."""
    pushed = _line(job.exclude)
    settings = {
        "Steps": str(job.steps),
        "Sampler": "VQGAN+CLIP",
        "Seed": str(job.seed),
        "Size": f"{job.size[0]}x{job.size[1]}",
        "Version": f"vqclip {versions.get('vqclip', '')}".strip(),
    }
    lines = [
        _line((*job.include, *job.extras)),
        f"Negative prompt: {pushed}" if pushed else "",
        ", ".join(f"{key}: {value}" for key, value in settings.items()),
    ]
    return "\n".join(line for line in lines if line)


def _line(prompts: Sequence[Prompt]) -> str:
    """Prompts as one printable line; a weight other than 1 as (text:weight)."""
    shown = (p.text if p.weight == 1 else f"({p.text}:{p.weight:g})" for p in prompts)
    return "".join(c if c.isprintable() else " " for c in ", ".join(shown))


def read(path: str | Path) -> Mapping[str, Any]:
    """The envelope that `embed` made, out of a PNG, GIF, WebP or MP4: schema, config, seed, and five maps of texts.

    No pixel is decoded. The text is at most 1 MiB, its JSON at most 16 levels deep with 20,000
    values, without duplicate keys, NaN or unknown fields. `files` and `machine`, which schema 1 lacks, are empty then.
    Raises InputError, one line, for everything else.
    """
    shown = str(path) if str(path).isprintable() else repr(str(path))
    try:
        return _parse(_text(Path(path)))
    except InputError as error:
        raise InputError(f"{shown}: {error}") from None


def _text(path: Path) -> str:
    """The `vqclip` text of a file, unparsed."""
    try:
        if not path.is_file():
            raise InputError("no such file" if not path.exists() else "not a regular file")
        if (size := path.stat().st_size) > MAX_FILE:
            raise InputError(f"{size} bytes; at most {MAX_FILE} are read")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size of the picture does not matter here
            text = containers.find(path)
    except InputError:
        raise
    except Exception as error:  # the decoder raises many kinds on damaged files; they mean the same here
        reason = "not a readable PNG, GIF, WebP or MP4"
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise InputError(reason) from error
    if text is None:
        raise InputError(f"no {KEY!r} text inside: not made by vqclip, or saved again without it")
    return text


def _parse(text: str) -> Mapping[str, Any]:
    """Parse and check one envelope."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT:
        raise InputError(f"its {KEY!r} text is longer than {MAX_TEXT} bytes")
    try:
        envelope = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"its {KEY!r} text is not the JSON that vqclip writes") from error
    _measure(envelope)
    if not isinstance(envelope, dict) or type(envelope.get("schema")) is not int:
        raise InputError(f"its {KEY!r} text is not the JSON object that vqclip writes")
    if envelope["schema"] not in (1, SCHEMA):
        raise InputError(f"its {KEY!r} text has schema {envelope['schema']}; this version reads 1 and {SCHEMA}")
    if envelope["schema"] == 1:
        envelope |= {field: {} for field in _SINCE_2 if field not in envelope}
    _check(envelope)
    return envelope


def _check(envelope: dict[str, Any]) -> None:
    """Refuse missing, unknown and mistyped fields."""
    if odd := ", ".join(sorted(set(envelope) ^ set(_FIELDS))):
        raise InputError(f"its {KEY!r} text has missing or unknown fields: {odd[:80]!a}")
    for field, kind in _FIELDS.items():
        if type(envelope[field]) is not kind:
            raise InputError(f"its {KEY!r} text: {field} is not of type {kind.__name__}")
    for field in _TEXTS:
        if not all(isinstance(value, str) for value in envelope[field].values()):
            raise InputError(f"its {KEY!r} text: {field} does not map texts to texts")


def _measure(value: object) -> None:
    """Refuse deep or crowded JSON; iterative, so that depth costs no stack."""
    nodes, layer = 0, [value]
    for _depth in range(MAX_DEPTH):
        nodes += len(layer)
        if nodes > MAX_NODES:
            raise InputError(f"its {KEY!r} text holds more than {MAX_NODES} values")
        inner = [v.values() if isinstance(v, dict) else v for v in layer if isinstance(v, dict | list)]
        if not (layer := [item for items in inner for item in items]):
            return
    raise InputError(f"its {KEY!r} text is nested deeper than {MAX_DEPTH} levels")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InputError(f"its {KEY!r} text has a key twice")
    return found


def _refuse(constant: str) -> Any:
    raise InputError(f"its {KEY!r} text holds {constant}")
