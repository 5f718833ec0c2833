"""From a name in a config to a weight file, and from a weight file to a CLIP that looks at pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vqclip.job import InputError
from vqclip.models import Perceptor, catalogue, clip, open_clip
from vqclip.models.weights import Weights, find
from vqclip.place import Place


def perceptor(name: str, weights: Weights, place: Place) -> Perceptor:
    """The CLIP of a loaded file, of openai's family or open_clip's; `name` is the config's value."""
    named = open_clip_name(name)
    if named is not None:
        net = open_clip.build(weights.state, model=named.model, tag=named.tag)
        return open_clip.OpenClipPerceptor(
            net, model=named.model, device=place.device, dtype=place.dtype, too_long=place.too_long, notice=place.note
        )
    return clip.ClipPerceptor(
        clip.build(weights.state),
        device=place.device,
        dtype=place.dtype,
        token_ids=weights.state.get("token_ids"),
        too_long=place.too_long,
        notice=place.note,
    )


def locate(name: str, role: str, note: Callable[[str], None]) -> Path:
    """The weight file that a config value names; what has to be fetched for it is noted at every tenth."""

    def fetched(done: int, total: int | None) -> None:
        if total:
            note(f"{name}: {10 * (10 * done // total)} % of {total / 1e6:.0f} MB fetched")

    named = open_clip_name(name)
    return find(named.path if named is not None and named.path else name, role=role, on_progress=fetched)


def open_clip_name(name: str) -> open_clip.Named | None:
    """Architecture and tag when the value names an open_clip model: by prefix, or by its catalogue name."""
    if name.startswith(open_clip.PREFIX):
        return open_clip.parse(name)
    if name.startswith("starter") or Path(name).is_file():
        return None
    try:
        entry = catalogue.entry(name)
    except InputError:  # a path that does not exist, or a typo: `find` says so
        return None
    return open_clip.Named(entry.extra["model"], entry.extra["tag"], "") if entry.kind == "open_clip" else None
