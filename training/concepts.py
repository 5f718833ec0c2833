"""Chooses, by rule, which things the small CLIP models learn by name, and what they are called in captions.

Knows labels and counts only; never looks at pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from training.sources import Emoji
from vqclip.grammar import COLOURS

GROUPS = ("animals-nature", "food-drink", "travel-places", "activities", "objects")
SUBGROUPS = (
    "face-smiling", "face-affection", "face-glasses", "face-costume", "cat-face", "heart", "geometric",
)  # fmt: skip
# Clock faces and map pins look alike; people and hands come in skin tones; signs are letters.
UNWANTED = ("time", "place-map", "person-role", "transport-sign", "event-ticket")
# What people say for labels that are catalogue English.
EVERYDAY = {
    "automobile": "car", "bicycle": "bike", "deciduous tree": "tree", "evergreen tree": "pine tree",
    "hot beverage": "coffee", "doughnut": "donut", "spiral shell": "shell", "television": "tv",
    "french fries": "fries", "shortcake": "cake", "honeybee": "bee", "t-shirt": "shirt",
    "wrapped gift": "gift", "gem stone": "diamond", "light bulb": "bulb", "water wave": "wave",
    "sailboat": "boat", "delivery truck": "truck", "soccer ball": "football", "clown face": "clown",
    "cheese wedge": "cheese", "high voltage": "lightning", "beer mug": "beer",
    "snowman without snow": "snowman", "hot dog": "hotdog", "mobile phone": "phone",
    "racing car": "race car", "locked": "lock",
}  # fmt: skip
UNWANTED_WORDS = {"clock", "large", "small", "medium", "man", "woman", "person", "people", "family"}
# Names that few people would ask for, or whose drawings are those of another name on the list.
RARE = {
    "moai", "oden", "dango", "custard", "ogre", "goblin", "joker", "ewe", "ram", "boar", "ox", "rat",
    "poodle", "chipmunk", "blowfish", "turkey", "dove", "bug", "ant", "fog", "foggy", "rainy", "sunny",
    "snowy", "cloudy", "suv", "minibus", "metro", "tram", "ferry", "speedboat", "beers", "stew", "sake",
    "paella", "chestnut", "seat", "skis", "bowling", "golf", "cooking", "wedding", "bank", "hotel",
    "station", "stadium", "kaaba", "desert", "camping", "beach", "sunrise", "herb", "blossom", "hibiscus",
    "rosette", "seedling", "dvd", "nib", "memo", "radio", "scroll", "mahjong", "ticket", "cyclone", "comet",
    "shower", "toilet", "wrench", "nose", "squid", "shell", "melon", "mag", "jeans", "sparkles", "ribbon",
    "houses", "bacon", "spaghetti",
}  # fmt: skip


# Guides learn fewer names, of plain and different shapes: in the same time each is seen more often, and a model
# that is surer of a shape withstands a stronger attack, which is what makes its gradients draw that shape.
GUIDED = (
    "apple", "pear", "lemon", "banana", "cherries", "grapes", "strawberry", "watermelon", "tomato",
    "carrot", "mushroom", "pizza", "donut", "cake", "icecream", "hamburger", "heart", "star", "moon", "sun",
    "cloud", "rainbow", "snowflake", "snowman", "fire", "droplet", "tree", "cactus", "flower", "rose",
    "sunflower", "leaves", "house", "castle", "tent", "umbrella", "bell", "key", "crown", "ring", "gift",
    "balloon", "guitar", "anchor", "rocket", "airplane", "car", "bus", "boat", "cat", "dog", "fox", "panda",
    "pig", "rabbit", "frog", "penguin", "owl", "duck", "fish", "whale", "octopus", "bee", "ghost",
)  # fmt: skip


def plain_name(label: str) -> str:
    """The label without a leading colour word: the colour in a caption is measured from the pixels."""
    words = label.replace("gray", "grey").split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in COLOURS else words)


def name_emojis(emojis: Iterable[Emoji]) -> dict[str, str]:
    """Label -> caption name: an everyday word where there is one, a short name for three words and more.

    A short name is taken only when it means no other emoji.
    """
    emojis = list(emojis)
    own = {plain_name(emoji.label) for emoji in emojis}
    names: dict[str, str] = {}
    for emoji in emojis:
        name = plain_name(emoji.label)
        if len(name.split()) > 2 and emoji.group in GROUPS:
            shorts = [plain_name(code.replace("_", " ")) for code in emoji.short[:2]]
            free = [short for short in shorts if short not in own | set(names.values())]
            name = min([name, *free], key=lambda text: len(text.split()))
        names[emoji.label] = EVERYDAY.get(name, name)
    return names


def is_wanted(emoji: Emoji, name: str) -> bool:
    """Whether an emoji is a thing with one shape that a short name describes."""
    words = name.split()
    plain = all(word.isalpha() for word in words) and len(words) <= 2
    plain = plain and not (UNWANTED_WORDS | RARE) & set(words)
    place = emoji.group in GROUPS or emoji.subgroup in SUBGROUPS
    return plain and place and emoji.subgroup not in UNWANTED


def choose_concepts(emojis: Iterable[Emoji], styles_of: dict[str, set[str]], count: int) -> dict[str, str]:
    """Label -> caption name of the `count` wanted names that are easiest to show and to say.

    The rank adds the letters of the name (short words are the everyday ones), 2 for every style that lacks
    the drawing and 2 for a second word. Objects, the largest group, pay 3 more.

    Args:
        emojis: the candidates, in emojibase's order (ties keep it).
        styles_of: label -> the styles that draw it; six at least are asked for.
        count: how many distinct names; several labels can share one ("red heart" and "blue heart").
    """
    emojis = list(emojis)
    names = name_emojis(emojis)
    labels: dict[str, list[str]] = defaultdict(list)
    cost: dict[str, int] = {}
    for emoji in emojis:
        name, drawn = names[emoji.label], len(styles_of.get(emoji.label, ()))
        if is_wanted(emoji, name) and drawn >= 6:
            labels[name].append(emoji.label)
            price = len(name) + 2 * (10 - drawn) + 2 * name.count(" ")
            price += 3 * (emoji.group == "objects")
            cost[name] = min(price, cost.get(name, price))
    ranked = sorted(labels, key=cost.__getitem__)
    return {label: name for name in ranked[:count] for label in labels[name]}
