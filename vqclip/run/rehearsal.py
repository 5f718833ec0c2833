"""The smallest published weights, fetched, held against what is known of them, and made to draw.

No published file was at hand when this was written. SHA-256, sizes, shapes and token ids are the publishers' and the
tokenizer's; the ranges of cosines and of likeness are reasoned, wide and unverified.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from vqclip import config, images
from vqclip.generators import vqgan
from vqclip.job import InputError, Step, WeightsError
from vqclip.perceptors import clip
from vqclip.run import picture as runner
from vqclip.run.assemble import Runtime, perceptor
from vqclip.run.device import pick_device, pick_dtype
from vqclip.run.doctor import Check
from vqclip.run.progress import Silent
from vqclip.weights import catalogue, store
from vqclip.weights.answer import Progress
from vqclip.weights.catalogue import Entry
from vqclip.weights.load import Weights, load

CLIP, VQGAN = "ViT-B/32", "coco_f16_1024"
STEPS, SIDE, CROPS = 20, 224, 4
Meter = Callable[[Entry], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Known:
    """What the two files hold: arguments of `clip.model.CLIP`, and the VQGAN's architecture."""

    clip: Mapping[str, Any]
    vqgan: vqgan.Architecture


KNOWN = Known(
    {
        "embed_dim": 512, "image_resolution": 224, "vision_layers": 12, "vision_width": 768, "vision_patch_size": 32,
        "context_length": 77, "vocab_size": 49408, "transformer_width": 512, "transformer_heads": 8,
        "transformer_layers": 12,
    },
    vqgan.Architecture(128, (1, 1, 2, 2, 4), 2, (4,), 3, 3, 256, 1024, 256, gumbel=False),
)  # fmt: skip
# What openai-clip 1.0.1 makes of texts, without start and end: case, blanks, digits, accents and an emoji.
TOKENS = {
    "a diagram": [320, 22697],
    "hello world!": [3306, 1002, 256],
    "A  Yellow\nSmiley Face": [320, 4481, 22925, 1710],
    "a lighthouse in a storm, oil painting": [320, 13717, 530, 320, 2819, 267, 2870, 3086],
    "16:9 \u2014 na\u00efve caf\u00e9 \U0001f34e": [272, 277, 281, 280, 2005, 1097, 35689, 563, 15304, 32069],
    "it's 1,024 codes": [585, 568, 272, 267, 271, 273, 275, 14566],
}
# The first is what `drawing` shows.
CAPTIONS = ("a yellow smiley face", "a photo of a dog", "a red car", "a green tree", "a page of text")
# Unverified. OpenAI's towers give 0.2 to 0.35 for a caption that fits and 0.1 to 0.25 for others; towers that are not
# trained together, or read by wrong code, give anything around 0, or the same to every caption.
COSINES = (0.05, 0.45)
LEAD = 0.01  # of the caption that fits before the best other one
# Unverified. Training ended at the bound of 100.
LOGIT_SCALE = (50.0, 101.0)
# Unverified: correlation over all pixels between the drawing and what encoder, codes and decoder make of it. 16 px a
# cell leave the large areas, so that even 0.8 would be little; wrong code or weights give about 0.
LIKENESS = 0.5


class _Watch(Silent):
    """Shows nothing and keeps the first picture of a run, the last one and the losses."""

    def __init__(self) -> None:
        self.pictures: list[Tensor] = []  # (3, H, W) each
        self.losses: list[float] = []

    def step(self, step: Step, terms: Mapping[str, float] | None) -> None:
        self.pictures = [*self.pictures[:1], step.image]
        self.losses.append(sum(terms.values()) if terms else float("nan"))

    def end(self, result: object) -> None:
        pass


class Rehearsal:
    """Checks of two published files, each also where others before it failed, unless it needs what those looked for.

    Args:
        meter: shows the progress of a download.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._files: dict[str, Path] = {}
        self._read: dict[str, Weights] = {}

    def checks(self) -> list[Check]:
        """In the order in which one needs the other."""
        return [
            Check("tokens", tokens),
            Check("CLIP file", partial(self._fetch, CLIP)),
            Check("CLIP shape", self._clip_shape),
            Check("CLIP captions", self._captions),
            Check("VQGAN file", partial(self._fetch, VQGAN)),
            Check("VQGAN shape", self._vqgan_shape),
            Check("VQGAN likeness", self._likeness),
            Check("steps", self._steps),
        ]

    @cached_property
    def _runtime(self) -> Runtime:
        device = pick_device("auto")
        return Runtime(device, pick_dtype("auto", device), "error", lambda _line: None)

    def _fetch(self, name: str) -> str:
        """The file, fetched if it is not here, with the SHA-256 that the catalogue names."""
        entry = catalogue.entry(name)
        fetched: list[int] = []
        with self._meter(entry) as show:

            def on_progress(done: int, total: int | None) -> None:
                fetched.append(done)
                show(done, total)

            path = store.locate(entry, on_progress=on_progress, renew=not store.is_offline())
        self._files[name] = path
        published = "as published" if entry.sha256 else "pinned, for its publisher names none"
        how, digest = "fetched" if fetched else "was here", store.expected(entry) or ""
        return f"{name}, {entry.about}, {how}, SHA-256 {digest[:12]}... {published}: {path}"

    def _file(self, name: str) -> Path:
        if name not in self._files:
            raise WeightsError(f"not tried: there is no {name}, see above")
        return self._files[name]

    def _weights(self, name: str) -> Weights:
        """The tensors of a file, read once, all finite."""
        path = self._file(name)
        if name not in self._read:
            self._read[name] = load(path)
        for key, value in self._read[name].state.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise WeightsError(f"{path}: {key} holds values that are not finite")
        return self._read[name]

    def _clip_shape(self) -> str:
        """The towers' shape, read from the weights."""
        state = self._weights(CLIP).state
        network = clip.build(state)
        found = clip.infer_arguments(state)
        _same(found, KNOWN.clip, self._file(CLIP))
        scale = float(network.logit_scale.exp())
        if not LOGIT_SCALE[0] <= scale <= LOGIT_SCALE[1]:
            raise WeightsError(f"{self._file(CLIP)}: its logit scale is {scale:.1f}; about 100 is expected")
        millions = sum(each.numel() for each in network.parameters()) / 1e6
        return f"{found['image_resolution']} px, {found['embed_dim']} numbers, {millions:.1f} million parameters"

    @torch.no_grad()
    def _captions(self) -> str:
        """Cosines of five captions to a drawing: the one that fits is first, and all are where CLIP's are."""
        guide = perceptor(CLIP, self._weights(CLIP), self._runtime)
        seen = guide.embed_image(drawing(guide.size).to(self._runtime.device))  # (1, E)
        cosines = (guide.embed_text(CAPTIONS) @ seen[0]).tolist()
        line = ", ".join(f"{text} {cosine:.3f}" for text, cosine in zip(CAPTIONS, cosines, strict=True))
        fits, best_other = cosines[0], max(cosines[1:])
        if not fits >= best_other + LEAD:
            raise WeightsError(f"the caption that fits is not first by {LEAD}: {line}; this CLIP sees no drawing")
        if not all(COSINES[0] <= cosine <= COSINES[1] for cosine in cosines):
            raise WeightsError(f"a cosine is not in {COSINES[0]} to {COSINES[1]}: {line}")
        return line

    def _vqgan_shape(self) -> str:
        """The network's shape, read from the weights."""
        read = self._weights(VQGAN)
        found = vqgan.build(read.state, groups=vqgan.groups_of(read.metadata)).shape
        _same(vars(found), vars(KNOWN.vqgan), self._file(VQGAN))
        return f"{found.codes} codes of {found.code_dim} numbers, {found.stride} px a cell"

    @torch.no_grad()
    def _likeness(self) -> str:
        """How much of a drawing is left after encoder, codes and decoder."""
        read = self._weights(VQGAN)
        network = vqgan.build(read.state, groups=vqgan.groups_of(read.metadata))
        generator = vqgan.VQGAN(network, device=self._runtime.device, dtype=self._runtime.dtype)
        before = drawing(SIDE).to(self._runtime.device)
        after = generator.decode(generator.encode(before))
        likeness = float(torch.corrcoef(torch.stack([before.flatten(), after.flatten().float()]))[0, 1])
        line = f"a drawing comes back with a correlation of {likeness:.2f}"
        if not likeness >= LIKENESS:
            raise WeightsError(f"{line}; {LIKENESS} at least is expected")
        return line

    def _steps(self) -> str:
        """A run of both by the reference recipe, in a run folder that stays."""
        clip_file, vqgan_file = self._file(CLIP), self._file(VQGAN)
        self._read.clear()  # the run reads them itself
        settings = [
            "preset=reference", f"include={CAPTIONS[0]}", f"generator={vqgan_file}", f'guides=["{clip_file}"]',
            "judge=none", f"steps={STEPS}", f"size={SIDE},{SIDE}", f"crops.count={CROPS}", f"crops.chunk={CROPS}",
            "log_every=1",
        ]  # fmt: skip
        watch = _Watch()
        begun = time.perf_counter()
        (result,) = runner.run(config.load(None, settings), watch)
        seconds = time.perf_counter() - begun
        start, end = self._seen(watch.pictures)
        line = (
            f"the whole picture's cosine to {CAPTIONS[0]!r} went from {start:.3f} to {end:.3f}, the loss from "
            f"{watch.losses[0]:.3f} to {watch.losses[-1]:.3f}"
        )
        if not end > start:
            raise WeightsError(f"{line}: these weights do not steer; {result.folder} has the run")
        return f"{STEPS} steps at {SIDE}x{SIDE} in {seconds:.0f} s, {line}: {result.folder}/final.png"

    @torch.no_grad()
    def _seen(self, pictures: Sequence[Tensor]) -> list[float]:
        """Cosines of whole pictures, (3, H, W) each, to the caption that is drawn; crops change with every step."""
        guide = perceptor(CLIP, self._weights(CLIP), self._runtime)
        shown = [F.interpolate(each[None].float(), size=(guide.size, guide.size), mode="area") for each in pictures]
        seen = guide.embed_image(torch.cat(shown).to(self._runtime.device))  # (N, E)
        cosines: list[float] = (seen @ guide.embed_text(CAPTIONS[:1])[0]).tolist()
        return cosines


def tokens() -> str:
    """A line that the tokenizer installed here gives the ids that it gave when these were written down.

    Raises:
        InputError: it gives others.
    """
    for text, ids in TOKENS.items():
        found = clip.token_ids(text)
        if found != ids:
            raise InputError(f"{text!r} is read as {found}, not {ids}; openai-clip or ftfy are of another version")
    return f"{len(TOKENS)} texts as expected"


def drawing(side: int) -> Tensor:
    """A smiley: yellow with a black outline, eyes and mouth, on white; (1, 3, side, side) in [0, 1]."""
    unit = side / 16 * 4  # drawn four times as large, for smooth edges
    picture = Image.new("RGB", (4 * side, 4 * side), "white")
    pen = ImageDraw.Draw(picture)
    pen.ellipse((2 * unit, 2 * unit, 14 * unit, 14 * unit), fill=(255, 221, 51), outline="black", width=round(unit / 3))
    for x in (6, 10):
        pen.ellipse(((x - 0.7) * unit, 5.3 * unit, (x + 0.7) * unit, 7.7 * unit), fill="black")
    pen.arc((5 * unit, 5.5 * unit, 11 * unit, 11.5 * unit), 20, 160, fill="black", width=round(unit / 2))
    return images.from_pil(picture.reduce(4))


def _same(found: Mapping[str, Any], known: Mapping[str, Any], path: Path) -> None:
    """Raise WeightsError for the first number in which a file is another model."""
    for key, value in known.items():
        if found[key] != value:
            raise WeightsError(f"{path}: another architecture, {key} is {found[key]}; {value} is expected")
