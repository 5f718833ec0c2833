"""From YAML files, presets and overrides to one frozen, checked Config, and back. Runs nothing.

Layers are merged in the order defaults < preset < base files < the file < overrides.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vqclip.config.document import MAX_BYTES, Node, clean, parse, plain, read
from vqclip.config.layers import Layer, located, read_layer, read_override
from vqclip.config.schema import (
    MAX_KEPT_FROM,
    MAX_PROMPTS,
    MAX_SEED,
    Config,
    Guide,
    Picture,
    Reference,
    Variant,
    leaves,
)  # fmt: skip
from vqclip.config.shorthand import is_literal
from vqclip.config.values import read_text
from vqclip.job import InputError, Prompt

__all__ = [
    "Config", "Guide", "Loaded", "Picture", "Reference", "Variant", "digest", "explain", "from_mapping", "is_set",
    "layer_of", "load", "load_over", "over", "pictures", "resolved", "to_mapping", "to_yaml",
]  # fmt: skip

_MAX_BASE_DEPTH = 8
_MAX_FILES = 64
# Replaced whole and merged here: prompt texts never meet OmegaConf, which would read "${...}" in them.
_RECORDS = ("include", "exclude", "extras", "images", "prompts", "variants", "guides")


@dataclass(frozen=True)
class Loaded:
    """A config with its file's text as given ("" without a file) and the origin of every key's value."""

    config: Config
    text: str
    origins: dict[str, str]


def load(path: Path | None, overrides: Sequence[str] = (), *, prompted: bool = True) -> Loaded:
    """Read a config file (None: none), its base files and preset, and apply `key.sub=value` overrides.

    Paths in a file are relative to it, those of overrides to the current folder; all become absolute. `prompted`
    demands a prompt.

    Raises:
        InputError: one line with file, line and key for anything unreadable, unknown or out of range.
    """
    text, files = "", list[Layer]()
    if path is not None:
        text = read(path)
        files = _files(path, text, chain=())
    config, origins = _assemble([*files, *_from_overrides(overrides)], prompted=prompted)
    return Loaded(config, text, origins)


def load_over(config: Config, overrides: Sequence[str], *, source: str) -> Loaded:
    """Apply `key.sub=value` overrides to a complete config; `source` names where that came from.

    Raises:
        InputError: as for `load`.
    """
    return over([layer_of(config, source)], overrides)


def layer_of(config: Config, source: str = "") -> Layer:
    """A complete config as a layer."""
    return read_layer(plain(to_mapping(config), clean(source)))


def over(layers: Sequence[Layer], overrides: Sequence[str]) -> Loaded:
    """Apply `key.sub=value` overrides to layers that were read elsewhere; the paths in these stay as they are.

    Raises:
        InputError: as for `load`.
    """
    merged, origins = _assemble([*layers, *_from_overrides(overrides)])
    return Loaded(merged, "", origins)


def resolved(path: Path) -> Config:
    """The Config of a file that a run left behind: complete, so that base files are not followed.

    Raises:
        InputError: no such file, or not what `to_yaml` writes.
    """
    return over([read_layer(parse(read(path), str(path)))], ()).config


def from_mapping(values: Mapping[str, Any], source: str) -> Config:
    """The Config of an untrusted mapping (metadata, keyword arguments); missing keys take their defaults.

    Paths are relative to the current folder.

    Raises:
        InputError: as for `load`, with `source` in place of the file.
    """
    config, _ = _assemble([located(read_layer(plain(values, clean(source))), Path())])
    return config


def _from_overrides(overrides: Sequence[str]) -> list[Layer]:
    return [located(read_override(each), Path()) for each in overrides]


def is_set(origin: str) -> bool:
    """Whether an origin is the user's: a file, the command line or another source, neither default nor preset."""
    return origin != "default" and not origin.startswith("preset ")


def _files(path: Path, text: str, *, chain: tuple[Path, ...]) -> list[Layer]:
    """The layers of a file: those of its base files in order, then its own."""
    node = parse(text, str(path))
    base = node.value.pop("base", None)
    chain = (*chain, path.resolve())
    layers: list[Layer] = []
    for each in _base_names(base):
        target = path.parent / each.value
        if target.resolve() in chain:
            raise each.refuse("base", "a file that does not lead back to itself is needed")
        if len(chain) > _MAX_BASE_DEPTH:
            raise each.refuse("base", f"at most {_MAX_BASE_DEPTH} levels of base files are allowed")
        if not os.path.isfile(target):
            raise each.refuse("base", f"no such file beside {clean(path.name)}")
        layers += _files(target, read(target), chain=chain)
        if len(layers) > _MAX_FILES:
            raise each.refuse("base", f"at most {_MAX_FILES} base files are allowed")
    return [*layers, located(read_layer(node), path.parent)]


def _base_names(base: Node | None) -> list[Node]:
    if base is None:
        return []
    names: list[Node] = base.value if isinstance(base.value, list) else [base]
    for each in names:
        if not read_text(each):
            raise each.refuse("base", "the path of a YAML file, or a list of such paths, is needed")
    return names


def _assemble(layers: list[Layer], *, prompted: bool = True) -> tuple[Config, dict[str, str]]:
    """Put the preset underneath, merge, and check what only the whole can show."""
    preset = next((layer["preset"].value for layer in reversed(layers) if "preset" in layer), Config.preset)
    recipe = resources.files("vqclip.config").joinpath("presets", f"{preset}.yaml").read_text("utf-8")
    layers = [read_layer(parse(recipe, f"preset {preset}")), *layers]

    origins = {key.path: "default" for key in leaves()}
    records: dict[str, Any] = {name: getattr(Config, name) for name in _RECORDS}
    nested: list[dict[str, Any]] = []
    for layer in layers:
        values: dict[str, Any] = {}
        for path, setting in layer.items():
            if path in _RECORDS:
                origins = {key: where for key, where in origins.items() if not key.startswith(f"{path}[")}
                origins |= {f"{path}[{i}]": where for i, where in enumerate(setting.each)}
            origins[path] = setting.where
            section, _, name = path.rpartition(".")
            target = records if path in _RECORDS else values.setdefault(section, {}) if section else values
            target[name] = setting.value
        nested.append(values)
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), *nested))
    config = dataclasses.replace(config, **records)
    _agree(config, origins, prompted=prompted)
    return config, origins


def _agree(config: Config, origins: Mapping[str, str], *, prompted: bool) -> None:
    """Checks between keys."""
    prompts = _prompt_conflicts(config, origins, prompted=prompted)
    for wrong, key, message in (*_start_conflicts(config, origins), *prompts):
        if wrong:
            raise InputError(f"{origins[key]}: {key}: {message}")


def _start_conflicts(config: Config, origins: Mapping[str, str]) -> Iterator[tuple[bool, str, str]]:
    """(whether it is so, the key to blame, what is wrong) for everything about the start and the crops."""
    kind, image, maker = config.start.kind, config.start.image, config.start.backend
    yield kind == "image" and image is None, "start.kind", "image without a picture; start.image is needed"
    idle = kind != "image" and image is not None and not is_set(origins["start.kind"])  # else it is said, not refused
    yield idle, "start.image", f"given with kind {kind}; start.kind image is needed"
    unmatched = (kind == "backend") != (maker is not None)
    yield unmatched, "start.backend", f"{maker or 'none'} with kind {kind}; give both or neither"
    yield maker == config.backend, "start.backend", f"{maker} makes the picture too; another backend is needed"
    bare = config.kandinsky.mask is not None and kind not in ("image", "backend")
    yield bare, "kandinsky.mask", "given without a start picture; start.kind image or backend is needed"
    scale = config.crops.scale
    yield scale[0] > scale[1], "crops.scale", f"got {list(scale)}; the smaller number comes first"


def _prompt_conflicts(
    config: Config, origins: Mapping[str, str], *, prompted: bool
) -> Iterator[tuple[bool, str, str]]:
    """The same for everything about prompts, their number and their length."""
    both, neither = config.include and config.prompts, prompted and not config.include and not config.prompts
    yield bool(both), "include", f"given besides prompts ({origins['prompts']}); one of the two is allowed"
    yield neither, "include", "no prompt; include or prompts is needed, for example include='red apple'"
    every: list[Config | Picture] = [config, *config.prompts]
    stops = config.losses.join == "features" and any(p.stop is not None for each in every for p in each.extras)
    yield stops, "losses.join", "features with a stop on an extra; extras joined with the include have none"
    last = max(each.seed or 0 for each in pictures(config)) + config.seeds - 1
    yield config.keep is not None and config.keep > config.seeds, "keep", (
        f"got {config.keep} with seeds {config.seeds}; at most as many as there are seeds are allowed"
    )
    yield config.keep is not None and config.seeds > MAX_KEPT_FROM, "seeds", (
        f"got {config.seeds} with keep {config.keep}; the best are kept of at most {MAX_KEPT_FROM}"
    )
    judged = config.keep is not None and config.keep_by == "judge"
    yield judged and config.judge is None, "keep_by", "judge without a judge; allowed: guides, or judge=starter"
    count = len(pictures(config)) * config.seeds
    yield last > MAX_SEED, "seed", f"got {config.seed}; with {count} pictures it passes {MAX_SEED}"
    number = sum(len(each.include + each.exclude + each.extras) for each in every)
    longest = "prompts" if config.prompts else "include"
    yield number > MAX_PROMPTS, longest, f"{number} prompts in all; at most {MAX_PROMPTS} are allowed"
    size = len(to_yaml(config).encode())
    yield size > MAX_BYTES, longest, f"{size} bytes with all prompts written out; at most {MAX_BYTES} are allowed"


def pictures(config: Config) -> tuple[Picture, ...]:
    """The pictures to make: each with its own and the shared prompts, and its seed."""
    if not config.prompts:
        return (Picture(config.include, config.exclude, config.extras, config.seed),)
    return tuple(
        Picture(
            include=each.include,
            exclude=each.exclude + config.exclude,
            extras=each.extras + config.extras,
            seed=config.seed + index if each.seed is None else each.seed,
        )
        for index, each in enumerate(config.prompts)
    )


def to_mapping(config: Config) -> dict[str, Any]:
    """The complete config as plain JSON values; `from_mapping` gives it back."""
    mapping: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return mapping


def to_yaml(config: Config) -> str:
    """The complete config as YAML that `load` reads back to the same Config."""
    lines: list[str] = []
    for name, value in to_mapping(config).items():
        if isinstance(value, dict):
            lines += [f"{name}:", *(f"  {sub}: {_flow(each)}" for sub, each in value.items())]
        elif name in _RECORDS and value:
            lines += [f"{name}:", *(f"  - {_flow(_short(name, each))}" for each in value)]
        else:
            lines.append(f"{name}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """JSON, which YAML reads as flow style, with the characters escaped that YAML does not take raw."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _short(name: str, record: dict[str, Any]) -> Any:
    shorten = {"prompts": _short_picture, "include": _short_prompt, "exclude": _short_prompt, "extras": _short_prompt}
    return shorten[name](record) if name in shorten else record


def _short_prompt(prompt: dict[str, Any]) -> Any:
    given = {name: value for name, value in prompt.items() if value != getattr(Prompt, name, None)}
    return given["text"] if list(given) == ["text"] and is_literal(given["text"]) else given


def _short_picture(picture: dict[str, Any]) -> Any:
    given = {name: value for name, value in picture.items() if value not in ([], None)}
    for name in {"include", "exclude", "extras"} & set(given):
        given[name] = [_short_prompt(each) for each in given[name]]
    return given


def digest(config: Config) -> str:
    """SHA-256 (hex) over the settings that decide the result: all but `name` and `outputs`."""
    mapping = {key: value for key, value in to_mapping(config).items() if key not in ("name", "outputs")}
    return hashlib.sha256(json.dumps(mapping, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def explain(loaded: Loaded) -> list[tuple[str, str, str, str, str]]:
    """A row (key, value, where it came from, what it means, what is allowed) for every key."""
    mapping = to_mapping(loaded.config)
    rows: list[tuple[str, str, str, str, str]] = []
    for key in leaves():
        section, _, name = key.path.rpartition(".")
        value = mapping[section][name] if section else mapping[name]
        if key.path in _RECORDS:
            value = [_short(name, each) for each in value]
        shown = "none" if value is None else _flow(value)
        rows.append((key.path, shown, loaded.origins[key.path], key.doc, key.allowed))
    return rows
