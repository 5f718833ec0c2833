"""What a picture says of its making, and what of a stranger's picture is believed.

A picture comes from anywhere. Of its recipe only what decides the picture is taken, with models that everybody has and
within `BOUNDS`; every path, every other model and what is larger needs the user's word. Fetches nothing, and asks the
file system for no name that a picture holds.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from vqclip import config as configs
from vqclip.backends.kandinsky.files import NAME as KANDINSKY
from vqclip.config import Config, Guide, Loaded, Reference
from vqclip.config.document import clean, plain, show
from vqclip.config.keys import Key
from vqclip.config.layers import Layer, located, read_layer, read_override, written
from vqclip.config.paths import OPEN_CLIP
from vqclip.config.schema import BACKENDS, leaves
from vqclip.config.values import SHORT
from vqclip.job import InputError
from vqclip.run import cores
from vqclip.run.device import is_here
from vqclip.weights import catalogue

# What a picture may ask for without the user's word. Published recipes stay far below: 500 steps, 128 crops, 512 px.
BOUNDS: Mapping[str, int] = {
    "size": 1024, "steps": 2000, "tries": 16, "crops.count": 256, "crops.chunk": 256, "crops.augment": 12, "guides": 4,
    "kandinsky.steps": 250, "kandinsky.prior_steps": 250, "stable_diffusion.steps": 250,
}  # fmt: skip
NEVER = ("name", "outputs", "variants", "seeds")  # where a run lies is the user's alone; a picture is no comparison
ASIDE = ("video.", "log_every", "score_every")  # of a run, not of its picture
RESOLVED = "config.resolved.yaml"
_FITTED = ("device", "precision", "threads")  # said as they really were, and taken as far as this machine has them
_PASTED = 1500  # characters of settings to paste; a forged picture could ask for more
_DIGITS = 12  # of a SHA-256, for people


class Request(NamedTuple):
    """What in a recipe needs the user's word: the key that an override would name, and what is said of it."""

    key: str
    text: str


def to_metadata(config: Config, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The config of one picture as the picture carries it: plain JSON values, with no folder of whoever made it.

    "./photo.png" stands for a file of that name; its SHA-256 is told beside the recipe. Device and precision are
    those really used.

    Args:
        config: of one picture.
        facts: of the run: device and precision, see `Models`.
    """
    precision = {"float32": "fp32", "bfloat16": "bf16"}[facts["precision"]]
    return _plain(config) | {"device": facts["device"].partition(":")[0], "precision": precision}


def _plain(config: Config) -> dict[str, Any]:
    mapping = {key: value for key, value in configs.to_mapping(config).items() if key not in NEVER}
    for key in leaves():
        section, _, name = key.path.rpartition(".")
        tree = mapping[section] if section else mapping
        if key.kind in (Guide, Reference):
            field, kind = _field(key)
            for each in tree[name]:
                each[field] = _without_folder(each[field], kind)
        elif key.file and tree[name] is not None:
            tree[name] = _without_folder(tree[name], key.file)
    return mapping


def _without_folder(value: str, kind: str) -> str:
    """A path as "./" and its last part, a name of the catalogue as it stands there, anything else as it is."""
    if value.startswith(OPEN_CLIP):
        head, _, path = value.removeprefix(OPEN_CLIP).partition(":")
        return f"{OPEN_CLIP}{head}:{_without_folder(path, kind)}"
    if os.path.isabs(value):
        return f"./{PurePath(value).name}"
    try:
        return catalogue.entry(value).name if kind == "weights" else value
    except InputError:
        return value


def from_metadata(
    found: Mapping[str, Any], picture: Path, overrides: Sequence[str], *, trust: bool
) -> tuple[Loaded, list[str]]:
    """The config of a repeated run, and lines that say what else the picture holds.

    Args:
        found: the envelope of `picture`, see `metadata.read`.
        picture: its path, for messages and for the resolved config beside it.
        overrides: `key.sub=value`, the user's own words.
        trust: the user vouches for the picture: all of it is taken but `NEVER`. Its files are looked for where the
            resolved config beside it says, if that is of the same recipe, else in the current folder.

    Raises:
        InputError: no valid recipe, or without `trust` one that needs the user's word: one line says for what.
    """
    source, given = clean(str(picture)), {key for each in overrides for key in read_override(each)}
    layer = {key: each for key, each in _read(found, source).items() if key not in NEVER and key not in given}
    lines = [] if trust else _drop_asides(layer)
    _fit(layer)
    whole = configs.over([layer], overrides).config
    makers = {whole.backend, whole.start.backend}
    layer = {key: each for key, each in layer.items() if _has_effect(key, makers)}
    named = list(_models_and_files(layer, found))
    requests, locations = [*named, *_beyond(layer)], _locations(found, picture) if named else {}
    best = {request.key: locations.get(request.key, layer[request.key].value) for request in requests}
    if requests and not trust:
        raise InputError(_refusal(source, requests, best))
    if trust:
        layer = located({key: replace(each, value=best.get(key, each.value)) for key, each in layer.items()}, Path())
    return configs.over([layer], overrides), lines


def _read(found: Mapping[str, Any], source: str) -> Layer:
    try:
        layer = read_layer(plain(found["config"], source))
    except InputError as error:
        maker = found["versions"].get("vqclip", "")
        raise InputError(f"{error} (made by vqclip {clean(maker[:20])})" if maker else str(error)) from error
    if "prompts" in layer and layer["prompts"].value:
        raise InputError(f"{source}: prompts: a list of pictures; the recipe of a picture has one")
    return layer


def _drop_asides(layer: Layer) -> list[str]:
    """Take out of a layer what film and log alone need; a line names what of it is not the default."""
    default, dropped = configs.to_mapping(Config()), []
    for key in [key for key in layer if key.startswith(ASIDE)]:
        section, _, name = key.rpartition(".")
        value = layer.pop(key).value
        if value != (default[section] if section else default)[name]:
            dropped.append(f"{key}={written(value)}")
    said = "not taken, for it does not change the picture (--trust takes it)"
    return [f"{said}: {shlex.join(dropped)}"] if dropped else []


def _fit(layer: Layer) -> None:
    """Cut threads and device to what this machine has."""
    threads, device = layer.get("threads"), layer.get("device")
    if threads is not None and threads.value is not None:
        layer["threads"] = replace(threads, value=min(threads.value, cores.usable()))
    if device is not None:
        kind = device.value.partition(":")[0]
        layer["device"] = replace(device, value=kind if is_here(kind) else "auto")


def _has_effect(key: str, makers: set[str | None]) -> bool:
    """Whether a key is read, as far as it can name a model: those of a backend that draws nothing are not."""
    section = key.partition(".")[0].replace("_", "-")
    backend = "vqgan" if key in ("generator", "guides", "denoiser.model") else section
    return backend in makers or backend not in BACKENDS


def _models_and_files(layer: Layer, found: Mapping[str, Any]) -> Iterator[Request]:
    """Every path of a layer, and every model that neither ships with vqclip nor stands in the catalogue."""
    for place, key, value, kind in _names(layer):
        if not _is_known(key, value, kind):
            role = place.removesuffix(".model").replace("guides[", "guide ").rstrip("]")
            digest = found["files"].get(place) or found["weights"].get(role)
            known = f" (SHA-256 {clean(digest[:_DIGITS])}...)" if digest else ""
            yield Request(key, f"{place}={show(value)}{known}")


def _names(layer: Layer) -> Iterator[tuple[str, str, str, str]]:
    """(place, key, value, kind as of `Key.file`) of every value that may be a path."""
    for key in leaves():
        value = layer[key.path].value if key.path in layer else None
        if key.kind in (Guide, Reference):
            field, kind = _field(key)
            for number, each in enumerate(value or ()):
                yield f"{key.path}[{number}]", key.path, getattr(each, field), kind
        elif key.file and value is not None:
            yield key.path, key.path, value, key.file


def _field(key: Key) -> tuple[str, str]:
    """The field of a guide or reference that may be a path, and its kind."""
    field = SHORT[key.kind]
    return field, next(leaf.file for leaf in leaves(key.kind) if leaf.path == field)


def _is_known(key: str, value: str, kind: str) -> bool:
    """Whether everybody has this model, or can have it from its publisher. A file of the same name hides it."""
    if kind == "file":
        return False
    if value == "starter" or (key == "denoiser.model" and value in ("auto", "none")):
        return True
    if kind == "pipeline":
        return value == KANDINSKY and not os.path.lexists(value)
    return value.startswith("starter/") or (value in catalogue.entries() and not os.path.lexists(value))


def _beyond(layer: Layer) -> Iterator[Request]:
    """What of a layer passes `BOUNDS`."""
    for key, most in BOUNDS.items():
        value = layer[key].value if key in layer else 0
        amount = value if isinstance(value, int) else max(value) if key == "size" else len(value)
        if amount > most:
            yield Request(key, f"{key}={amount} (at most {most})")


def _refusal(source: str, requests: Sequence[Request], best: Mapping[str, Any]) -> str:
    """One line with everything that a recipe wants, and both ways to have it."""
    asked = ", ".join(request.text for request in requests)
    settings = shlex.join(f"{key}={written(value)}" for key, value in best.items())
    if len(settings) > _PASTED:
        settings = " ".join(f"{key}=..." for key in best)
    return f"{source}: a picture alone may not ask for {asked}; add --trust, or what you agree to: {settings}"


def _locations(found: Mapping[str, Any], picture: Path) -> dict[str, Any]:
    """Key -> value with whole paths, from the resolved config beside a picture if it is of the same recipe; else {}."""
    path = picture.parent / RESOLVED
    try:
        beside = configs.resolved(path)
    except InputError:
        return {}
    mine, theirs = ({k: v for k, v in each.items() if k not in _FITTED} for each in (_plain(beside), found["config"]))
    return {key: each.value for key, each in configs.layer_of(beside).items()} if mine == theirs else {}
