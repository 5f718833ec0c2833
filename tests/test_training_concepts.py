"""Concepts are chosen by how many styles draw them and how short their name is, and colours leave the name."""

from __future__ import annotations

from training.concepts import choose_concepts, is_wanted, name_emojis, plain_name
from training.sources import PERMISSIVE, Emoji

STYLES = [package.style for package in PERMISSIVE]


def emoji(label: str, *short: str, group: str = "animals-nature", subgroup: str = "animal-mammal") -> Emoji:
    return Emoji(label, label, group, subgroup, (), short)


def test_leading_colours_leave_the_name() -> None:
    assert plain_name("red apple") == "apple"
    assert plain_name("black cat") == "cat"
    assert plain_name("orange") == "orange"
    assert plain_name("blueberries") == "blueberries"


def test_everyday_words_and_short_names_replace_catalogue_english() -> None:
    names = name_emojis([emoji("automobile"), emoji("leaf fluttering in wind", "leaves"), emoji("cat face", "kitty")])
    assert names == {"automobile": "car", "leaf fluttering in wind": "leaves", "cat face": "cat face"}


def test_a_short_name_of_another_emoji_is_not_taken() -> None:
    names = name_emojis([emoji("cat"), emoji("cat with wry smile", "cat")])
    assert names["cat with wry smile"] == "cat with wry smile"


def test_clocks_people_and_long_names_are_not_wanted() -> None:
    assert is_wanted(emoji("cat"), "cat")
    assert not is_wanted(emoji("one oclock", group="travel-places", subgroup="time"), "one oclock")
    assert not is_wanted(emoji("old man", group="objects"), "old man")
    assert not is_wanted(emoji("cat with wry smile"), "cat with wry smile")
    assert not is_wanted(emoji("waving hand", group="people-body"), "waving hand")


def test_the_count_is_kept_and_well_drawn_short_names_come_first() -> None:
    emojis = [emoji("hippopotamus"), emoji("cat"), emoji("red heart"), emoji("blue heart"), emoji("emu")]
    styles = {one.label: set(STYLES) for one in emojis} | {"emu": set(STYLES[:5])}
    chosen = choose_concepts(emojis, styles, 2)
    assert chosen == {"cat": "cat", "red heart": "heart", "blue heart": "heart"}
    assert "emu" not in choose_concepts(emojis, styles, 10)  # too few styles draw it
