"""What an exclude prompt is pushed away from: every role that its words can have, each only while it is there.

"yellow" can be the colour of the thing or of the ground. A guide that learnt whose colour is whose sees opposites in
the two: pushed away from "a yellow apple" alone, a picture is invited to put its apple on yellow. So each role is a
direction of its own, from captions that say something else in the same place to the caption that says it. A picture
that has nothing of it scores about 0 there, whatever else it shows, and the push ends where the score does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.grammar import COLOURS, is_colour, parse, plural, with_article
from vqclip.perceptors import Perceptor
from vqclip.starter import concepts

# In logits of the guide's own training, so that they mean the same to every CLIP: how much likelier than the mean of
# its rivals a role's caption is. In a trial on eleven pictures the starter guide gave about 0.8 or less to three
# quarters of what did not show a colour, 1.2 or more to nearly all that did.
THERE: Final = 1.0
GONE: Final = -3.0  # what is no colour is pushed gently on to here


@dataclass(frozen=True)
class Role:
    """One thing that an exclude can mean: its caption, and captions of the same form that mean something else."""

    caption: str
    rivals: tuple[str, ...]


@dataclass(frozen=True)
class Away:
    """The directions of an exclude for one guide.

    `directions` (R, E), unit rows; `slopes` (R,): logits per unit of cosine along them.
    """

    directions: Tensor
    slopes: Tensor

    def stops(self, logits: float) -> Tensor:
        """(R,) spherical distances from the directions at which a picture has that many logits."""
        cosines: Tensor = (logits / self.slopes).clamp(-0.9, 0.9)
        return cosines.acos().square() / 2

    def at(self, distance: float) -> Tensor:
        """(R,): one spherical distance for all of them."""
        return torch.full_like(self.slopes, distance)


def colours_in(text: str) -> tuple[str, ...]:
    """The colours of a text that names nothing but colours ("yellow", "red and green"), else none."""
    words = [word for word in re.split(r"\s*(?:,|;|\band\b|\bor\b)\s*", text.strip()) if word]
    if not words or not all(is_colour(word) for word in words):
        return ()
    return tuple(dict.fromkeys(str(parse(word).word("colour")) for word in words))


def roles(text: str, include: Sequence[str]) -> list[Role]:
    """The roles of an exclude's words beside the texts of the includes.

    A bare colour word is the ground's and each included thing's; a bare thing stands in the place of the first
    included one ("a cactus on a blue background" for a key on blue); everything else is what it says.
    """
    colours = colours_in(text)
    if not colours:
        return [_in_place(text, include) or Role(text, _others(parse(text).word("thing")))]
    things = dict.fromkeys(_coloured(each) for each in include)
    return [_contrast(form, colour) for colour in colours for form in ("{} background", *things)]


def _others(*names: str | None) -> tuple[str, ...]:
    """The everyday names but these."""
    return tuple(name for name in concepts() if name not in names)


def _in_place(text: str, include: Sequence[str]) -> Role | None:
    """A bare thing, and all that is neither it nor included, in the place of the first included thing.

    None where either names no thing, where the text says more than one ("a yellow star"), or one that is included.
    """
    name, asked = parse(text).word("thing"), [parse(each) for each in include]
    things = [caption.word("thing") for caption in asked]
    place = next((caption for caption in asked if caption.thing), None)
    if name is None or place is None or name in things or not _is_bare(text, name):
        return None
    return Role(place.replaced(thing=name), tuple(place.replaced(thing=other) for other in _others(name, *things)))


def _is_bare(text: str, name: str) -> bool:
    """Whether a text says a name and nothing else: "a star", "the star", "stars"."""
    said = re.sub(r"^(?:an?|the|any) ", "", " ".join(text.lower().split()).rstrip(".!"))
    return said in (name, plural(name))


def _coloured(include: str) -> str:
    """The name of an include's thing with a place for its colour."""
    thing = parse(include).word("thing")
    return f"{{}} {thing}" if thing else "something {}"


def _contrast(form: str, colour: str) -> Role:
    made = {word: form.format(word) for word in COLOURS}
    if not form.startswith("something"):
        made = {word: with_article(text) for word, text in made.items()}
    return Role(made.pop(colour), tuple(made.values()))


def away(perceptor: Perceptor, found: Sequence[Role], keep: Tensor) -> Away:
    """From the mean of each role's rivals to its caption, less what the includes ask.

    A text direction as in StyleGAN-NADA (Gal et al. 2022), made orthogonal to the rows of `keep` (K, E), so that the
    includes' own pull is left alone.
    """
    rows = []
    for role in found:
        own, *rivals = perceptor.embed_text([role.caption, *role.rivals])
        rows.append(own - torch.stack(rivals).mean(0))
    basis = torch.linalg.qr(keep.T.cpu()).Q.to(keep.device)  # (E, K); MPS has no such factors
    apart = torch.stack(rows)
    apart = apart - apart @ basis @ basis.T
    return Away(F.normalize(apart, dim=-1), perceptor.scale * apart.norm(dim=-1).clamp_min(1e-6))
