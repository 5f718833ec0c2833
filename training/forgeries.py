"""Pictures that the optimization loop itself makes of captions: `python -m training.forgeries NAME --count N`.

A guide learns to reject them and so to ask for more than it did (samples of the model's own as negatives: Du and
Mordatch 2019, "Implicit Generation and Modeling with Energy-Based Models"). They carry the strokes of VQGAN and
denoiser, which alone would give them away: so as many real drawings are passed through the same hands, and those
keep their captions. A model that rejects nothing, such as the judge, gets the redrawn ones alone. Adds to what
earlier calls wrote; the oldest pictures go first. Called again while the guide trains, it shows it its newest taste.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training import denoiser_data
from training.captions import Meaning, leave_out, say
from training.data import cache_folder, load
from training.pool import EMPTY, Pool, read, shrink, write
from training.recipes import RECIPES, Recipe
from training.steps import draw_rows
from training.views import Bank, make_bank, make_views
from vqclip.backends.vqgan.backend import cosine
from vqclip.backends.vqgan.starts import smooth_colours
from vqclip.config.schema import Crops
from vqclip.generators import denoiser, vqgan
from vqclip.generators.denoiser import Denoiser, mixture
from vqclip.generators.vqgan import VQGAN
from vqclip.loop.annealing import Annealing, Levels
from vqclip.loop.crops import Cropper, CropSpec
from vqclip.loop.descent import Normalised
from vqclip.loop.losses import Losses, attract
from vqclip.loop.optimize import optimize
from vqclip.loop.state import State
from vqclip.perceptors import clip
from vqclip.weights import load as weights

_PIXELS = 128  # side of the pictures at which the loop draws whole things
_BATCH, _STEPS = 12, 32
_CROPS = CropSpec(**asdict(Crops(count=4, chunk=4)))  # the loop's own, but fewer
_LEVELS = Levels(noise=0.95, end=0.2, churn=1.0)
_RATES = (2.0, 0.6)
_SEEN_FROM = 16  # the steps from here on are kept, one in four
_LOUDEST = 0.6  # noise level from which a redrawn picture is cleaned


@dataclass(frozen=True)
class Hands:
    """Who draws: generator, denoiser and the guide that is to be shown its own taste."""

    generator: VQGAN
    denoise: Denoiser
    guide: clip.ClipPerceptor

    @classmethod
    def load(cls, guide: Path, device: torch.device) -> Hands:
        """The shipped VQGAN and denoiser and an exported guide, in bfloat16."""
        made, cleaned, seen = (
            weights.load(weights.STARTER / "vqgan.safetensors"),
            weights.load(weights.STARTER / "denoiser.safetensors", parts=("",)),
            weights.load(guide),
        )
        kind = {"device": device, "dtype": torch.bfloat16}
        network = vqgan.build(made.state, groups=vqgan.groups_of(made.metadata))
        return cls(
            VQGAN(network, **kind),
            Denoiser(denoiser.build(cleaned.state, cleaned.metadata), **kind),
            clip.ClipPerceptor(clip.build(seen.state), token_ids=seen.state["token_ids"], **kind),
        )


def forge(hands: Hands, captions: list[str], rng: torch.Generator) -> Iterator[Tensor]:
    """Pictures (B, 3, 128, 128) on the way from smooth colours to what the guide takes for the captions.

    The loop itself, for many captions at once and with fewer crops.
    """
    begun = torch.cat([smooth_colours((_PIXELS, _PIXELS), 4, 0.3, rng=rng) for _ in captions])
    seeds = torch.randint(2**62, (2, len(captions)), generator=rng).tolist()
    looks, noises = ([torch.Generator().manual_seed(seed) for seed in own] for own in seeds)
    state = State(
        hands.generator.encode(begun),
        looks,
        optimizer=lambda moved: Normalised(moved, lr=1.0),
        denoise=Annealing(hands.denoise, _LEVELS, noises),
    )
    targets = hands.guide.embed_text(captions)[:, None]  # (B, 1, E): each latent has a caption of its own
    for steps in optimize(
        hands.generator,
        state,
        [hands.guide],
        Losses({"caption": attract([targets], [1.0], weight=1.0, stop=None)}),
        cropper=Cropper(_CROPS),
        rate=cosine(*_RATES, _STEPS),
        steps=_STEPS,
        batch=len(captions),
    ):
        if steps.index == _STEPS or (steps.index >= _SEEN_FROM and steps.index % 4 == 0):
            yield steps.images


@torch.no_grad()
def redraw(hands: Hands, image: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures (B, 3, 128, 128) encoded, mixed with noise of one level, cleaned and decoded."""
    clean, level = hands.generator.encode(image), float(torch.rand((), generator=rng)) * _LOUDEST
    keep, loud = mixture(torch.tensor(level))
    noisy = keep * clean + loud * torch.randn(clean.shape, generator=rng)
    return hands.generator.decode(hands.denoise.clean(noisy, level))


def redraw_some(hands: Hands, bank: Bank, count: int, rng: torch.Generator, *, focus: float = 1.0) -> Pool:
    """`count` drawings of the bank, redrawn."""
    rows = draw_rows(bank, count, rng, focus=focus)
    image, truths = make_views(bank, rows, denoiser_data.CROPS, size=_PIXELS, rng=rng)
    return Pool(shrink(redraw(hands, image, rng)), truths)


def forge_some(hands: Hands, truths: list[Meaning], words: np.random.Generator, rng: torch.Generator) -> Pool:
    """Several stages each of one forgery for a part of each of the `truths`."""
    wished, forged = [leave_out(truth, words) for truth in truths], EMPTY
    for drawn in forge(hands, [say(wish, words) for wish in wished], rng):
        forged += Pool(shrink(drawn), wished)
    return forged


def make(hands: Hands, bank: Bank, count: int, recipe: Recipe, seed: int) -> tuple[Pool, Pool]:
    """At least `count` redrawn drawings of the bank and, for a model that rejects, as many forgeries."""
    rng, words = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    forged, redrawn = EMPTY, EMPTY
    while len(redrawn) < count:
        more = redraw_some(hands, bank, _BATCH, rng, focus=recipe.focus)
        stages = forge_some(hands, more.meant, words, rng) if recipe.rejection else EMPTY
        for _ in range(_BATCH, len(stages), _BATCH):
            more += redraw_some(hands, bank, _BATCH, rng, focus=recipe.focus)
        forged, redrawn = forged + stages, redrawn + more
        print(f"{len(redrawn)} of {count}", flush=True)
    return forged, redrawn


def main() -> None:
    """Add forgeries and redrawn drawings to those of a guide."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--count", type=int, default=1024, help="pictures to add")
    parser.add_argument("--seed", type=int, default=71, help="another one for each call, or captions repeat")
    arguments = parser.parse_args()
    folder, recipe = cache_folder(), RECIPES[arguments.name]
    hands = Hands.load(folder / "export" / f"{arguments.name}.safetensors", torch.device("cpu"))
    drawn = [style for style in denoiser_data.DRAWN if style in recipe.styles] or recipe.styles
    icons = load(tuple(drawn), "concepts").only(recipe.names)
    bank = make_bank(icons, side=_PIXELS, variants=4, seed=arguments.seed)
    path = folder / "forgeries" / f"{arguments.name}.safetensors"
    forged, redrawn = read(path)
    more = make(hands, bank, arguments.count, recipe, arguments.seed)
    write(path, forged + more[0], redrawn + more[1])


if __name__ == "__main__":
    main()
