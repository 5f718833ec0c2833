"""Which settings change nothing in a run, or spoil it, and why: tables. Reads no file and refuses nothing.

Only what the user has set, and to something else than the default, is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from vqclip.config import Config, is_set, pictures
from vqclip.config.schema import leaves


class Rule(NamedTuple):
    """Keys (patterns), what is said of them, and when that holds."""

    keys: tuple[str, ...]
    why: str
    holds: Callable[[Config], bool]


def _makers(config: Config) -> set[str]:
    """The backends that take part: that of the picture, and that of its start."""
    return {config.backend, config.start.backend or config.backend}


def _started(config: Config) -> bool:
    """Whether the backend goes on from a picture."""
    return config.start.kind in ("image", "backend")


def _undenoised(config: Config) -> bool:
    starter = config.generator in ("starter", "starter/vqgan")
    return config.denoiser.model == "none" or (config.denoiser.model == "auto" and not starter)


def _prompts(config: Config, part: str) -> list[Any]:
    """The prompts of all pictures that are include, exclude or extras."""
    return [prompt for picture in pictures(config) for prompt in getattr(picture, part)]


SD = "stable-diffusion"
LOOP = (
    "steps", "generator", "guides", "optimizer.*", "coarse", "tries", "tries_share", "average", "denoiser.*", "crops.*",
    "losses.exclude", "losses.exclude_stop", "losses.emphasis", "losses.smooth", "losses.anchor", "losses.decay",
    "losses.roles", "losses.area", "losses.distance", "losses.join", "latent.*",
    "batch", "keep", "keep_by", "keep_share",
)  # fmt: skip
WARPED = (
    "crops.overview", "crops.scale", "crops.rotate", "crops.perspective", "crops.flip", "crops.colour", "crops.erase",
    "crops.pad",
)  # fmt: skip

# The first rule that holds for a key is the one that is said.
RULES: tuple[Rule, ...] = (
    Rule(LOOP, "only the loop of backend vqgan has it", lambda c: "vqgan" not in _makers(c)),
    Rule(("kandinsky.*",), "kandinsky draws nothing here", lambda c: "kandinsky" not in _makers(c)),
    Rule(("stable_diffusion.*",), "stable-diffusion draws nothing here", lambda c: SD not in _makers(c)),
    Rule(("losses.extras",), "stable-diffusion joins extras to the prompt", lambda c: _makers(c) == {SD}),
    Rule(("start.image",), "start.kind is another than image", lambda c: c.start.kind != "image"),
    Rule(("start.kind",), "without a start picture diffusion begins with pure noise",
         lambda c: c.backend != "vqgan" and not _started(c)),
    Rule(("start.cells", "start.contrast"), "only a smooth start of vqgan has blobs",
         lambda c: c.backend != "vqgan" or c.start.kind != "smooth"),
    Rule(("coarse", "tries"), "a start picture is the only start, at full size",
         lambda c: c.backend == "vqgan" and _started(c)),
    Rule(("tries_share",), "there is one start, and no exclude or extra that begins after the tries",
         lambda c: (c.tries == 1 or _started(c)) and not (_prompts(c, "exclude") or _prompts(c, "extras"))),
    Rule(("denoiser.noise", "denoiser.noise_end", "denoiser.strength", "denoiser.churn"), "there is no denoiser",
         _undenoised),
    Rule(("denoiser.strength",), "there is no start picture", lambda c: not _started(c)),
    Rule(WARPED, "crops.method is pooled", lambda c: c.crops.method == "pooled"),
    Rule(("crops.shift",), "only crops.method padded shifts the picture", lambda c: c.crops.method != "padded"),
    Rule(("losses.roles",), "with losses.join features the excludes are one text", lambda c: c.losses.join != "apart"),
    Rule(("losses.exclude", "losses.exclude_stop"), "nothing is excluded", lambda c: not _prompts(c, "exclude")),
    Rule(("losses.exclude_stop",), "each exclude has a stop of its own",
         lambda c: all(prompt.stop is not None for prompt in _prompts(c, "exclude"))),
    Rule(("losses.extras",), "there are no extras", lambda c: not _prompts(c, "extras")),
    Rule(("exclude",), "losses.exclude is 0", lambda c: c.losses.exclude == 0 and _makers(c) == {"vqgan"}),
    Rule(("extras",), "losses.extras is 0", lambda c: c.losses.extras == 0 and SD not in _makers(c)),
    Rule(("kandinsky.strength",), "there is no start picture", lambda c: c.backend != "kandinsky" or not _started(c)),
    Rule(("kandinsky.strength",), "what the mask shows is drawn from noise", lambda c: c.kandinsky.mask is not None),
    Rule(("kandinsky.inpaint",), "there is no mask", lambda c: c.kandinsky.mask is None),
    Rule(("kandinsky.decoder",), "with a mask kandinsky.inpaint draws", lambda c: c.kandinsky.mask is not None),
    Rule(("stable_diffusion.strength",), "there is no start picture",
         lambda c: c.backend != SD or not _started(c)),
    Rule(("keep_by", "keep_share"), "keep is not set", lambda c: c.keep is None),
    Rule(("score_every",), "there is no judge", lambda c: c.judge is None),
    Rule(("video.seconds", "video.fps", "video.hold"), "video.formats is empty", lambda c: not c.video.formats),
)  # fmt: skip
RUN_RULES = (
    Rule(("variants",), "only `compare` has variants", lambda _: True),
    Rule(("keep", "keep_by", "keep_share"), "only vqgan without another backend before it draws seeds side by side",
         lambda c: c.backend != "vqgan" or c.start.kind == "backend"),
    Rule(("checkpoint.*",), "only vqgan without another backend before it makes checkpoints",
         lambda c: c.backend != "vqgan" or c.start.kind == "backend"),
    *RULES,
)  # fmt: skip
COMPARISON_RULES = (
    Rule(("keep", "keep_by", "keep_share", "batch"), "`compare` makes every seed's picture alone", lambda _: True),
    *RULES,
)


# Settings that work, and rarely as hoped.
CAUTIONS: tuple[Rule, ...] = (
    Rule(("crops.overview", "crops.scale"), "no crop shows more than half of the picture, which may stay a pattern",
         lambda c: c.crops.method == "homography" and c.crops.overview == 0 and c.crops.scale[1] <= 0.5),
    Rule(("average",), "the mean of so many latents, each with noise of its own, may be grey",
         lambda c: c.average >= 0.9 and not _undenoised(c)),
    Rule(("backend", "size"), "the small Kandinsky was trained at 128x128; pictures of other sizes come in pieces",
         lambda c: c.backend == "kandinsky" and c.kandinsky.decoder == "starter" and c.size != (128, 128)),
)  # fmt: skip


def notices(origins: Mapping[str, str], configs: Sequence[Config], *, rules: Sequence[Rule] = RUN_RULES) -> list[str]:
    """One line for each reason why settings have no effect or may spoil the picture, and for prompts at odds.

    Args:
        origins: where each key was set.
        configs: of the run, or of all variants of a comparison: what one of them uses has an effect.
        rules: which keys have an effect when.
    """
    idle: dict[str, list[str]] = {}
    working = []
    for key in _set_by_user(origins, configs[0]):
        reasons = [_reason(key, config, rules) for config in configs]
        why = reasons[0] if all(reasons) else None
        if why:
            idle.setdefault(why, []).append(key)
        else:
            working.append(key)
    lines = [_line(keys, why, origins) for why, keys in idle.items()]
    for rule in CAUTIONS:
        touched = next((key for key in working if key in rule.keys), None)
        if touched is not None and all(rule.holds(config) for config in configs):
            lines.append(f"{origins[touched]}: {touched}: {rule.why}")
    return [*lines, *dict.fromkeys(line for config in configs for line in _contradictions(config))]


def _set_by_user(origins: Mapping[str, str], config: Config) -> Iterator[str]:
    """The keys that the user has set to something else than the default."""
    now, default = asdict(config), asdict(Config())
    for key in leaves():
        section, _, name = key.path.rpartition(".")
        values = [tree[section][name] if section else tree[name] for tree in (now, default)]
        if is_set(origins.get(key.path, "default")) and values[0] != values[1]:
            yield key.path


def _reason(key: str, config: Config, rules: Sequence[Rule]) -> str:
    matching = (rule for rule in rules if any(fnmatchcase(key, pattern) for pattern in rule.keys))
    return next((rule.why for rule in matching if rule.holds(config)), "")


def _line(keys: Sequence[str], why: str, origins: Mapping[str, str]) -> str:
    return f"{origins[keys[0]]}: {', '.join(keys)} {'has' if len(keys) == 1 else 'have'} no effect: {why}"


def _contradictions(config: Config) -> Iterator[str]:
    for picture in pictures(config):
        unwanted = {_plain(prompt.text): prompt.text for prompt in picture.exclude}
        for prompt in picture.include:
            if _plain(prompt.text) in unwanted:
                yield f"{prompt.text!r} is included and excluded; the two pull against each other"
    every = [prompt for part in ("include", "exclude", "extras") for prompt in _prompts(config, part)]
    stopped = [prompt.text for prompt in every if prompt.stop is not None]
    if stopped and "vqgan" not in _makers(config):
        yield f"the stop of {stopped[0]!r} has no effect: nothing stops early with {config.backend}"


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!, ")
