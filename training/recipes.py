"""The table of CLIP models with their sizes, drawings and schedules; trains nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from training.concepts import GUIDED
from training.views import Crops

GUIDE_STYLES = (
    "noto",
    "fluent-emoji-flat",
    "fluent-emoji",
    "twemoji",
    "fxemoji",
    "fluent-emoji-high-contrast",
)
# Four sets of its own and two of the guides: the four alone have 616 drawings, which it learnt by heart.
JUDGE_STYLES = ("noto-v1", "emojione", "streamline-emojis", "emojione-monotone", "twemoji", "fluent-emoji")


@dataclass(frozen=True)
class Recipe:
    """One model: arguments of clip.model.CLIP, the drawings it sees and how it is trained.

    `replays` is how many steps are taken on one attacked batch.
    `names` are the concepts it learns, all of the vocabulary where empty.
    `focus` is how many times as often as other names the guided ones are drawn.
    `text_from` names a model whose exported text tower this one starts with.
    `rejection` is the weight of the loss on chains (see mirages.py), `sharpest` the largest factor on cosines: a low
    one keeps real pictures and their captions far nearer to each other than to all else.
    `radius` is the strongest attack's, 0 for ordinary training. `batch` is for a CPU, a quarter of a GPU's.
    """

    embed: int
    size: int
    layers: int | tuple[int, ...]
    width: int
    patch: int | None
    text_layers: int
    styles: tuple[str, ...]
    seed: int
    crops: Crops
    radius: float
    replays: int = 3
    rejection: float = 1.0
    sharpest: float = 20.0
    names: tuple[str, ...] = ()
    focus: float = 1.0
    batch: int = 64
    rate: float = 1e-3
    text_from: str = ""
    text_width: int = 192
    context: int = 20

    def architecture(self, rows: int) -> dict[str, Any]:
        """Constructor arguments of clip.model.CLIP with a token table of `rows`."""
        return {
            "embed_dim": self.embed, "image_resolution": self.size, "vision_layers": self.layers,
            "vision_width": self.width, "vision_patch_size": self.patch, "context_length": self.context,
            "vocab_size": rows, "transformer_width": self.text_width,
            "transformer_heads": self.text_width // 64, "transformer_layers": self.text_layers,
        }  # fmt: skip


RECIPES = {
    "guide-vit": Recipe(256, 64, 6, 192, 8, 3, GUIDE_STYLES, 11, Crops(haze=0.6), 4.0, rate=7e-4,
                    names=GUIDED, text_from="guide-rn"),
    "guide-rn": Recipe(256, 64, (1, 1, 1, 1), 32, None, 3, GUIDE_STYLES, 23, Crops(haze=0.6), 3.0, names=GUIDED),
    "judge": Recipe(
        256, 64, (1, 2, 2, 1), 24, None, 2, JUDGE_STYLES, 37,
        Crops(scale=(0.85, 1.4), turn=14, shift=0.15, perspective=0.08, flip=0.5, noise=0.03, haze=0.4, fog=0.3),
        1.5, replays=2, rejection=0.0, focus=3.0,
    ),
}  # fmt: skip


def strengthen(radius: float, right: float, recipe: Recipe) -> float:
    """The next batch's radius: larger while the model still names more than 40 % of the attacked pictures.

    A fixed schedule outran what the model had learned: its accuracy stood still. `right` is the share named right.
    """
    grown = radius * (1.01 if right > 0.4 else 0.985)
    return min(max(grown, 0.1 * recipe.radius), recipe.radius)


def pace(steps: int, progress: float, *, restarted: bool = False) -> float:
    """Share of the full learning rate: 100 steps of warm-up, then a cosine down to 2 %; half of it when begun anew."""
    top = 0.5 if restarted else 1.0
    return top * min(1.0, (steps + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
