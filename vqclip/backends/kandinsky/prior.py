"""The first half of Kandinsky 2.2: prompts and pictures become the pair of image embeddings to decode.

Does not open pipelines, move them between devices or draw pictures.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vqclip import images
from vqclip.backends.canvas import check_pixels
from vqclip.backends.diffusion import TRAINED_STEPS, at_work, quiet
from vqclip.job import InputError, Job

REMEMBERED = 48  # pairs of embeddings; one pair of the full-size model takes 10 kB


@dataclass(frozen=True)
class Kandinsky:
    """The settings that Kandinsky has beside `Denoising`.

    prior_steps: of the prior, 2 to 1000 (its noise schedule divides by zero at 1). prior_guidance: its scale,
        >= 0; 1 and less switch it off. With exclude prompts the model's authors recommend 1.
    prior_seed: 0 .. 2**63 - 1 to keep the prior's draw while the job's seed changes; None follows the job.
    extras: factor on the weights of all extra prompts; include counts 1.
    images: pictures (1, 3, H, W) in [0, 1] to blend in, each with a weight on the scale of the prompts' weights.
    offload: keep each model on the accelerator only while it works.
    idle: what happens to the half that does not work: "keep" it where it is, "park" it in main memory, "drop" it
        and open it again when needed, or "auto": park on an accelerator, keep on the CPU.
    too_long: "error" refuses a text that the text encoder cannot read whole, "truncate" cuts it off.

    Raises InputError for values outside of these.
    """

    prior_steps: int = 25
    prior_guidance: float = 4.0
    prior_seed: int | None = None
    extras: float = 0.5
    images: tuple[tuple[Tensor, float], ...] = ()
    offload: bool = False
    idle: str = "auto"
    too_long: str = "error"

    def __post_init__(self) -> None:
        if not 2 <= self.prior_steps <= TRAINED_STEPS:
            raise InputError(f"prior_steps: {self.prior_steps}; 2 to {TRAINED_STEPS} are possible")
        for name, value in (("prior_guidance", self.prior_guidance), ("extras", self.extras)):
            _check_factor(name, value)
        if self.prior_seed is not None and not 0 <= self.prior_seed < 2**63:
            raise InputError(f"prior_seed: {self.prior_seed}; a whole number from 0 to 2**63 - 1 is needed")
        for picture, weight in self.images:
            check_pixels(picture, "a picture to blend in", 3)
            _check_factor("weight of a picture to blend in", weight)
        for name, chosen, allowed in (
            ("idle", self.idle, ("auto", "keep", "park", "drop")),
            ("too_long", self.too_long, ("error", "truncate")),
        ):
            if chosen not in allowed:
                raise InputError(f"{name}: {chosen!r}; allowed: {', '.join(allowed)}")


def _check_factor(name: str, value: float) -> None:
    if not math.isfinite(value) or value < 0:
        raise InputError(f"{name}: {value}; a finite number >= 0 is needed")


@dataclass(frozen=True)
class Question:
    """All that decides what the prior answers, beside its weights.

    `parts` are texts and pictures (1, 3, H, W) in [0, 1] with weights that sum to 1; `exclude` is one
    text or None.
    """

    parts: tuple[tuple[str | Tensor, float], ...]
    exclude: str | None
    steps: int
    guidance: float
    seed: int

    @property
    def texts(self) -> list[str]:
        """Every text that the text encoder has to read."""
        return [part for part, _ in self.parts if isinstance(part, str)] + ([self.exclude] if self.exclude else [])

    def key(self, prior: str) -> str:
        """A digest of this question to the prior whose weights and precision `prior` names."""
        digest = hashlib.sha256(repr((prior, self.exclude, self.steps, self.guidance, self.seed)).encode())
        for part, weight in self.parts:
            if isinstance(part, Tensor):
                digest.update(repr((tuple(part.shape), weight)).encode() + images.to_uint8(part).tobytes())
            else:
                digest.update(repr((part, weight)).encode())
        return digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        """What a record of the run says about it."""
        blend = [[part if isinstance(part, str) else "a picture", round(weight, 6)] for part, weight in self.parts]
        exclude = {"exclude": self.exclude} if self.exclude else {}
        return {"seed": self.seed, "steps": self.steps, "guidance": self.guidance, "blend": blend} | exclude


def question(job: Job, settings: Kandinsky) -> Question:
    """What a job asks of the prior: weights scaled to sum 1, exclude prompts joined into one negative text.

    The negative text has no weights: exclude prompts of weight 0 are dropped, all others count alike.

    Raises:
        InputError: nothing has a weight above 0.
    """
    parts: list[tuple[str | Tensor, float]] = [(prompt.text, prompt.weight) for prompt in job.include]
    parts += [(prompt.text, prompt.weight * settings.extras) for prompt in job.extras]
    parts += settings.images
    parts = [(part, weight) for part, weight in parts if weight > 0]
    total = sum(weight for _, weight in parts)
    if not parts:
        raise InputError("every prompt has weight 0; at least one include prompt needs a weight above 0")
    return Question(
        tuple((part, weight / total) for part, weight in parts),
        ", ".join(prompt.text for prompt in job.exclude if prompt.weight > 0) or None,
        settings.prior_steps,
        settings.prior_guidance,
        job.rng("prior").initial_seed() if settings.prior_seed is None else settings.prior_seed,
    )


def unsupported(job: Job) -> list[str]:
    """What the prompts ask for that Kandinsky has no words for, one line each."""
    prompts = (*job.include, *job.exclude, *job.extras)
    lines = [f"weight {p.weight:g} of exclude {p.text!r}: counts 1" for p in job.exclude if p.weight not in (0, 1)]
    return lines + [f"stop {p.stop:g} of {p.text!r}: nothing stops early" for p in prompts if p.stop is not None]


def check_texts(texts: list[str], pipe: Any) -> None:
    """Raise InputError for a text that is longer than the prior's text encoder can read."""
    most = pipe.tokenizer.model_max_length
    for text in texts:
        with quiet():
            count = pipe.tokenizer([text], padding="longest", return_tensors="pt").input_ids.shape[-1]
        if count > most:
            shown = text if len(text) <= 60 else f"{text[:57]}..."
            raise InputError(
                f"prompt {shown!r} has {count - 2} tokens; Kandinsky reads {most - 2}: shorten it, or truncate it"
                ' with too_long "truncate"'
            )


@dataclass(frozen=True)
class Embeddings:
    """What to draw and what to steer away from, (1, E) each."""

    positive: Tensor
    negative: Tensor

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Embeddings:
        """The same pair elsewhere, or in another precision."""
        return Embeddings(self.positive.to(device, dtype), self.negative.to(device, dtype))


class Memory:
    """The newest answers of priors, so that a question asked again costs nothing; the oldest is forgotten."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        self._pairs: OrderedDict[str, Embeddings] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._pairs

    def recall(self, key: str) -> Embeddings | None:
        """The pair under `key`, on the CPU, or None."""
        if key in self._pairs:
            self._pairs.move_to_end(key)
        return self._pairs.get(key)

    def keep(self, key: str, pair: Embeddings) -> None:
        """Remember a pair, and forget the least used one where there are too many."""
        self._pairs[key] = pair.to(torch.device("cpu"))
        while len(self._pairs) > self._size:
            self._pairs.popitem(last=False)


@torch.no_grad()
def embed(pipe: Any, query: Question, device: torch.device) -> Embeddings:
    """Run a KandinskyV22PriorPipeline: its plain call for one text, its `interpolate` for a blend.

    The plain call takes the negative text as the side that guidance leads away from and answers it as
    the negative embedding; its authors set the guidance to 1 then. A blend has the negative embedding
    alone: `interpolate(negative_prompt=)` is the documented way, and guidance leads away from "". Of the prior
    pipelines this is the one whose `interpolate` takes texts (KandinskyV22PriorEmb2EmbPipeline's does not).
    """
    shared = {
        "num_inference_steps": query.steps,
        "guidance_scale": query.guidance,
        "generator": torch.Generator().manual_seed(query.seed),
    }
    (first, _), *others = query.parts
    with at_work(pipe):
        if isinstance(first, str) and not others:
            out = pipe(first, negative_prompt=query.exclude, **shared)
        else:
            parts = [images.to_pil(part) if isinstance(part, Tensor) else part for part, _ in query.parts]
            weights = [weight for _, weight in query.parts]
            out = pipe.interpolate(parts, weights, negative_prompt=query.exclude or "", device=device, **shared)
    return Embeddings(out.image_embeds, out.negative_image_embeds)
