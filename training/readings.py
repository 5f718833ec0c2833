"""Makes vqclip/starter/readings.json, what unseen words are read as: `python -m training.readings`.

A word is read as a name when WordNet has it as the name's synonym or as a kind of it, or as a near relation that a
sentence model finds alike too; emoji by their labels. Where in doubt it stays unread. Thresholds were set on the drawn
words that benchmarks/reading_words.json lists under "tune".
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from training import sentences, wordnet
from training.concepts import COLOURS, GROUPS, name_emojis, plain_name
from training.data import cache_folder
from training.sources import NAMES, WORDNET, Emoji, fetch, read_emojis
from training.wordnet import COLOUR, DRAWN, FOOD, WordNet

STARTER = Path(__file__).parent.parent / "vqclip" / "starter"
# The meanings of the names that are not the word's first sense among things that can be drawn.
SENSES = {
    "alien": "alien#3", "balloon": "balloon#1,balloon#2", "banana": "banana#2", "baseball": "baseball#2",
    "bike": "bicycle#1", "bikini": "bikini#2", "book": "book#1,book#2", "bulb": "light bulb#1", "bullseye": "",
    "cake": "cake#3", "carrot": "carrot#1,carrot#3", "castle": "castle#1,castle#2", "cherries": "cherry#3",
    "chicken": "chicken#2", "church": "church#2", "circle": "circle#1,circle#3", "cloud": "cloud#2",
    "clown": "clown#2", "corn": "corn#1,corn#3", "cow face": "", "crown": "crown#4", "dolphin": "dolphin#2",
    "dragon": "dragon#1", "droplet": "droplet#1", "egg": "egg#1,egg#2", "fire": "fire#1,fire#3",
    "flower": "flower#1,flower#2", "fountain": "fountain#1,fountain#3", "fries": "french fries#1",
    "ghost": "ghost#1,ghost#3", "gift": "present#2", "grapes": "grape#1", "heart": "heart#2,heart#7",
    "icecream": "ice cream#1", "leaves": "leaf#1", "mushroom": "mushroom#1,mushroom#2,mushroom#3,mushroom#5",
    "octopus": "octopus#2", "pill": "pill#2", "ring": "ring#8", "school": "school#2", "shrimp": "shrimp#2,shrimp#3",
    "star": "star#1,star#3,star#5", "taco": "taco#2", "tangerine": "tangerine#2,orange#1",
    "tennis": "tennis ball#1,tennis racket#1", "tiger": "tiger#2", "trophy": "trophy#2", "turtle": "turtle#2",
    "tv": "tv#2", "unicorn": "unicorn#1", "volcano": "volcano#2", "watermelon": "watermelon#2", "whale": "whale#2",
}  # fmt: skip
# What people say, and no book of words has.
SPOKEN = {
    "cherries": ("cherry",), "grapes": ("grape",), "leaves": ("leaf",), "fries": ("french fry", "chips"),
    "bouquet": ("bunch of flowers", "bunch of roses"), "gift": ("present", "wrapped gift", "gift box"),
    "bullseye": ("bull's eye", "dartboard", "target"), "droplet": ("water drop", "drop of water", "raindrop"),
    "fire": ("flame",), "dog": ("doggy", "doggie"), "cat": ("kitty",), "rabbit": ("bunny",), "airplane": ("aeroplane",),
    "tennis": ("tennis ball", "tennis racket"), "cow": ("cows",), "tangerine": ("orange",),
    "truck": ("lorry",), "donut": ("doughnut",), "hamburger": ("burger",), "tv": ("television",),
}  # fmt: skip
WORDS = {
    "photo": ("photograph", "snapshot", "photography"), "drawing": ("sketch", "doodle", "illustration", "cartoon"),
    "picture": ("pic",), "icon": ("emoji", "logo", "clipart", "clip art", "symbol", "sticker"),
    "painting": ("watercolour", "watercolor", "oil painting"), "background": ("backdrop", "backgrounds"),
    "colour": ("color", "colours", "colors"), "glossy": ("shiny",), "outlined": ("outline",), "shaded": ("shading",),
    "something": ("anything",),
}  # fmt: skip
NEAR_COLOURS = {
    "grey": ("gray", "silver", "greyish", "grayish"), "yellow": ("gold", "golden", "yellowish"),
    "blue": ("navy", "turquoise", "cyan", "teal", "aqua", "bluish"), "pink": ("magenta", "fuchsia", "pinkish"),
    "purple": ("violet", "lavender", "lilac", "mauve", "indigo", "purplish"), "red": ("crimson", "maroon", "reddish"),
    "brown": ("tan", "beige", "brownish", "bronze"), "green": ("greenish", "khaki"), "orange": ("orangish", "amber"),
    "white": ("ivory", "cream", "whitish"), "black": ("ebony", "blackish"),
}  # fmt: skip
LIKE_KIND, LIKE_SAME = 0.40, 0.32  # cosines of two words that a kind and a synonym need where a word means much
LIKE_ABOVE, LIKE_SISTER, LIKE_COUSIN = 1.40, 1.22, 1.25  # sums of the cosines of two words and of two definitions
_YOUNG = r"(?:an? )?(?:(?:young|baby|male|female|adult|mature|domestic|large|small|wild) )+(?:of (?:the |an? )?)?"


@dataclass
class Readings:
    """What stands in the file; see `vqclip.starter.words.Table`."""

    things: dict[str, str] = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)
    tints: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    emoji: dict[str, str] = field(default_factory=dict)
    apart: set[str] = field(default_factory=set)

    def listed(self) -> dict[str, object]:
        """As JSON values: every name once, with the phrases that are read as it."""
        made: dict[str, object] = {}
        for part in ("things", "colours", "tints", "words", "emoji"):
            by_name: dict[str, list[str]] = defaultdict(list)
            for phrase, name in sorted(getattr(self, part).items()):
                by_name[name].append(phrase)
            made[part] = dict(sorted(by_name.items()))
        return made | {"apart": sorted(self.apart)}


Embed = Callable[[list[str]], Tensor]


def meanings(book: WordNet, names: Iterable[str]) -> dict[str, str]:
    """The synsets that the names stand for -> the name."""
    found: dict[str, str] = {}
    for name in names:
        keys = SENSES.get(name)
        senses = [book.sense(key) for key in keys.split(",") if key] if keys is not None else [_first(book, name)]
        found |= {offset: name for offset in senses if offset and offset not in found}
    return found


def _first(book: WordNet, word: str) -> str:
    drawn = (each for each in book.senses.get(word, ()) if book.synsets[each].file in DRAWN)
    return next(drawn, book.senses.get(word, ("",))[0])


def kinds(
    book: WordNet, meant: Mapping[str, str], common: Collection[str], alike: Callable[[list[str], list[str]], Tensor]
) -> dict[str, str]:
    """Words for a name's synonyms and kinds -> the name; `alike` gives the cosines (N,) of N pairs of words.

    A word with a single meaning needs no likeness; one with several, a common one or a proper name is taken where the
    words are alike too (`Tom` is a cat, `hatch` a door). A tree that is better known for its fruit is none.
    """
    found: dict[str, tuple[str, int]] = {}
    for word in book.senses:
        offset = book.drawn_sense(word)
        if offset is None or not word.isascii() or _latin(word, book) or not word[0].isalpha():
            continue
        above = book.above(offset)
        near = sorted((depth, meant[each]) for each, depth in above.items() if each in meant)
        near = near or [(1, name) for name in _told(book.synsets[offset].gloss, meant.values())]
        if near and not (near[0][1] == "tree" and any(book.synsets[each].file == FOOD for each in book.senses[word])):
            found[word] = (near[0][1], near[0][0])
    words = [word for word in found if not _plain_case(word, book, common)]
    likeness = alike(words, [found[word][0] for word in words])
    weak = {
        word
        for word, cosine in zip(words, likeness.tolist(), strict=True)
        if cosine < (LIKE_KIND if found[word][1] else LIKE_SAME)
    }
    return {word: name for word, (name, _) in found.items() if word not in weak}


def _plain_case(word: str, book: WordNet, common: Collection[str]) -> bool:
    """Whether a word has a single meaning and is no common word or proper name."""
    single = len(book.senses[word]) == 1 and not book.otherwise.get(word)
    return single and word not in common and " of " not in word and (" " in word or word not in book.proper)


def _latin(word: str, book: WordNet) -> bool:
    return " " in word and f"genus {word.split()[0]}" in book.senses


def _told(gloss: str, names: Iterable[str]) -> list[str]:
    """The name in a definition like "young domestic cat"."""
    return [name for name in dict.fromkeys(names) if re.match(rf"{_YOUNG}{re.escape(name)}s?\b", gloss)]


def relations(book: WordNet, meant: Mapping[str, str], words: Collection[str], embed: Embed) -> dict[str, str]:
    """Words for what lies beside a name or just above it in WordNet, and is alike in word and definition."""
    chosen = {word: offset for word in words if (offset := book.drawn_sense(word)) is not None}
    offsets = sorted({*chosen.values(), *meant})
    places = {offset: place for place, offset in enumerate(offsets)}
    glosses = embed([f"{book.synsets[each].words[0]}: {book.synsets[each].gloss.split(';')[0]}" for each in offsets])
    spoken, names = sorted(chosen), sorted(set(meant.values()))
    bare = embed(spoken) @ embed(names).T
    above = {offset: book.above(offset, 3) for offset in offsets}
    found: dict[str, str] = {}
    for row, word in enumerate(spoken):
        best = 0.0
        for target, name in meant.items():
            needed = _needed(above[chosen[word]], above[target])
            score = float(glosses[places[chosen[word]]] @ glosses[places[target]] + bare[row, names.index(name)])
            if needed and score >= needed and score > best:
                found[word], best = name, score
    return found


def _needed(word: Mapping[str, int], name: Mapping[str, int]) -> float:
    """How alike two meanings have to be, by the steps up to what they share; 0 where no likeness is enough."""
    steps = min(((word[each], name[each]) for each in word if each in name), key=sum, default=(9, 9))
    if steps[0] == 0:
        return LIKE_ABOVE if steps[1] <= 2 else 0
    return LIKE_SISTER if steps == (1, 1) else LIKE_COUSIN if steps in ((1, 2), (2, 1)) else 0


def tints(book: WordNet, things: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Words for shades of the basic colours: those that are foremost colours, and those that are things first."""
    basic = {each: name for name in COLOURS for each in book.senses.get(name, ()) if book.synsets[each].file == COLOUR}
    basic = {each: name for each, name in basic.items() if book.synsets[each].words[0] in (name, "gray")}
    own, lent = dict[str, str](), dict[str, str]()
    for word, senses in book.senses.items():
        for place, offset in enumerate(senses):
            if book.synsets[offset].file != COLOUR or word in COLOURS or not word.isascii():
                continue
            near = sorted((depth, basic[each]) for each, depth in book.above(offset).items() if each in basic)
            if near:
                first = place == 0 and len(senses) == 1 and not book.otherwise.get(word)
                last = word.split()[-1]
                (own if first and word not in things else lent)[word] = last if last in COLOURS else near[0][1]
                break
    spoken = {word: name for name, words in NEAR_COLOURS.items() for word in words}
    return own | spoken, {word: name for word, name in lent.items() if word not in spoken and word not in COLOURS}


def compounds(book: WordNet, meant: Mapping[str, str], names: Collection[str], things: Mapping[str, str]) -> set[str]:
    """Phrases that are no kind of what one of their words names: "guinea pig", "hot dog", "apple pie".

    What is above a name ("big cat") is none of them: there one word says it.
    """
    tops = {each for offset in meant for each in book.above(offset)}
    listed = {*names, *things}
    heads = {word for word in listed if " " not in word}
    found = set()
    for word, senses in book.senses.items():
        parts = word.split()
        if not 2 <= len(parts) <= 4 or len(parts[0]) < 2 or parts[0] in (*COLOURS, "gray") or not heads & set(parts):
            continue
        drawn = any(book.synsets[each].file in DRAWN and each not in tops for each in senses)
        if drawn and word.isascii() and not _latin(word, book) and word not in listed:
            found.add(word)
    return found


def emoji_names(
    emojis: Iterable[Emoji], names: Collection[str], things: Mapping[str, str], apart: Collection[str]
) -> dict[str, str]:
    """Emoji -> a name, with the colour that the label gives ("green apple"); by label, else by the label's last word.

    "dog face" is a dog; other faces and parts of bodies are no things. `apart` are labels whose last word misleads.
    """
    found: dict[str, str] = {}
    emojis = list(emojis)
    spoken = name_emojis(emojis)
    for emoji in emojis:
        label = emoji.label.replace("gray", "grey")
        colour = label.split()[0] if label.split()[0] in COLOURS and plain_name(label) != label else ""
        bare = plain_name(label)
        creature = [bare.removesuffix(" face")] if emoji.group == "animals-nature" else []
        tries = [spoken[emoji.label], bare, *creature]
        if emoji.group in GROUPS and bare not in apart and bare.count(" ") < 2:
            tries.append(bare.split()[-1])
        known = [each if each in names else things.get(each, "") for each in tries]
        name = next((each for each in known if each), "")
        if name:
            sign = "".join(chr(int(code, 16)) for code in emoji.code.split("-") if code.upper() != "FE0F")
            found[sign] = f"{colour} {name}".strip()
    return found


def make(
    book: WordNet, emojis: Iterable[Emoji], vocabulary: Mapping[str, list[str]], model: sentences.Sentences
) -> Readings:
    """The whole table."""
    names, known = vocabulary["concepts"], {*vocabulary["words"]}
    meant, common = meanings(book, names), model.whole_words

    def alike(words: list[str], others: list[str]) -> Tensor:
        unique = sorted(set(others))
        rows = model.embed(unique)
        return (model.embed(words) * rows[[unique.index(other) for other in others]]).sum(1)

    things = kinds(book, meant, common, alike)
    others = [word for word in book.senses if word not in things and word in common and " " not in word]
    things = relations(book, meant, others, model.embed) | things
    things |= {phrase: name for name, phrases in SPOKEN.items() if name in names for phrase in phrases}
    spoken = {phrase: word for word, phrases in WORDS.items() if word in known for phrase in phrases}
    things = {
        phrase: name
        for phrase, name in things.items()
        if (phrase not in known or phrase == "orange") and phrase not in names and phrase not in spoken
        and len(phrase.split()[0]) > 1
        and phrase.split()[0] not in {*COLOURS, "gray"} - ({"orange"} if phrase == "orange" else set())
    }  # fmt: skip
    own, lent = tints(book, things)
    own = {phrase: name for phrase, name in own.items() if phrase not in known}
    apart = compounds(book, meant, names, things)
    return Readings(
        things={phrase: name for phrase, name in things.items() if phrase not in own},
        colours=own,
        tints={phrase: name for phrase, name in lent.items() if phrase not in known},
        words=spoken,
        emoji=emoji_names(emojis, names, things, apart),
        apart=apart,
    )


def main() -> None:
    """Fetch the sources, make the table and write it."""
    folder = cache_folder() / "packages"
    book = wordnet.read(fetch(WORDNET, folder))
    emojis = read_emojis(fetch(NAMES, folder))
    vocabulary = json.loads((STARTER / "vocabulary.json").read_text(encoding="utf-8"))
    made = make(book, emojis, vocabulary, sentences.Sentences(sentences.fetch(folder)))
    text = json.dumps(made.listed(), ensure_ascii=False, separators=(",", ":"))
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else STARTER / "readings.json"
    target.write_text(text.replace("],", "],\n") + "\n", encoding="utf-8")
    sizes = {part: len(getattr(made, part)) for part in ("things", "colours", "tints", "words", "emoji", "apart")}
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB, {sizes}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
