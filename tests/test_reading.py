"""Prompts are read whatever their case and punctuation; near words become known names, all others are named once."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from conftest import CPU, tiny_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from training.captions import STYLE_WORDS, Meaning, say
from vqclip.job import Job, Prompt, Reading
from vqclip.perceptors import clip
from vqclip.starter import concepts
from vqclip.starter.reading import Reader, notices
from vqclip.starter.words import EMPTY, Table, table, vocabulary

WORDS = vocabulary()["words"]
COLOURS = sorted(vocabulary()["colours"])
read = Reader(lambda word: word in WORDS, table())
meanings = st.builds(
    Meaning,
    st.sampled_from(concepts()),
    st.sampled_from(["", *COLOURS]),
    st.sampled_from(["", *COLOURS]),
    st.sampled_from(["", *STYLE_WORDS]),
)
captions = st.builds(lambda meaning, seed: say(meaning, np.random.default_rng(seed)), meanings, st.integers(0, 99))
phrases = st.sampled_from(sorted(table().things))
spoken = st.lists(
    st.one_of(
        st.sampled_from(sorted(WORDS)), phrases, st.sampled_from(sorted(table().emoji)), st.sampled_from(sorted(EMPTY)),
        st.sampled_from(sorted(table().colours)), st.sampled_from(sorted(table().tints)),
        st.sampled_from(sorted(table().apart)), st.sampled_from(["zyx", "Tokyo", "7", ",", "-", "!", "\u82f9\u679c"]),
    ),
    max_size=8,
).map(" ".join)  # fmt: skip


@given(captions)
def test_what_the_models_learnt_is_read_as_it_stands(caption: str) -> None:
    assert read(caption) == Reading(caption)


@given(captions, st.data())
def test_case_and_punctuation_do_not_matter(caption: str, data: st.DataObject) -> None:
    last = caption + data.draw(st.sampled_from(["", "!", "?", '"', " ;", "..."]))
    for changed in (last, last.upper(), last.title(), f"  {caption}\n", f'"{caption}"', caption.replace(" ", "  ")):
        assert read(changed) == Reading(caption)


@given(spoken)
@settings(max_examples=400)
def test_reading_what_was_read_changes_nothing(text: str) -> None:
    once = read(text)
    assert read(once.text) == Reading(once.text)
    assert set(once.text.split()) <= WORDS


@given(st.text(max_size=60))
@settings(max_examples=300)
def test_any_text_is_read(text: str) -> None:
    once = read(text)
    assert read(once.text) == Reading(once.text)
    assert set(once.text.split()) <= WORDS


@given(st.sampled_from([*concepts(), *COLOURS]), st.sampled_from(["{}", "a {}", "{}!", "zyx {}", "{}, zyx"]))
def test_known_words_are_never_replaced(name: str, form: str) -> None:
    reading = read(form.format(name))
    assert name in reading.text
    assert reading.replaced == ()


def test_everything_in_the_table_is_read_as_something_known() -> None:
    names, shipped = set(concepts()), table()
    assert set(shipped.things.values()) <= names
    assert {*shipped.colours.values(), *shipped.tints.values()} <= set(COLOURS)
    assert set(shipped.words.values()) <= WORDS
    for name in shipped.emoji.values():
        first, _, rest = name.partition(" ")
        assert name in names or (first in COLOURS and rest in names)
    for phrase in (*shipped.things, *shipped.colours, *shipped.words):
        assert phrase == "orange" or not (phrase in WORDS or phrase in names), phrase
    assert not shipped.apart & {*shipped.things, *names}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a red apple, flat", "a red apple flat"),
        ("APPLE!", "apple"),
        ("a red apple on white", "a red apple on a white background"),
        ("red apple, white background", "red apple on a white background"),
        ("a red apple with a white background", "a red apple on a white background"),
        ("on white: a red apple", "a red apple on a white background"),
        ("an apple against orange", "an apple on an orange background"),
        ("a white background", "a white background"),
        ("a dog on a red car", "a dog on a red car"),
        ("a cat on a table", "a cat"),
        ("a cat on a table under a red umbrella", "a cat a red umbrella"),
        ("ice cream", "icecream"),
        ("ice-cream", "icecream"),
        ("cow-face", "cow face"),
        ("a rain bow", "a rainbow"),
        ("a photograph of the castle", "a photo of castle"),
        ("a cup of tea", "tea"),
        ("one apple", "an apple"),
        ("a one colour drawing of a dog", "a one colour drawing of a dog"),
        ("a cute elephant", "an elephant"),
        ("a cute apple tree", "a tree"),
        ("apple, tree", "apple a tree"),
        ("an orange", "a tangerine"),
        ("an orange cat", "an orange cat"),
        ("dark blue heart", "blue heart"),
        ("the cat's umbrella", "cat umbrella"),
        ("the dog's house", ""),
        ("a heart, on a plain white models background", "a heart on a white background"),
        ("\U0001f499 heart", "blue heart"),
        ("mice", "mouse"),
        ("a, red; apple... on, a (white) background", "a red apple on a white background"),
        ('a "red" apple', "a red apple"),
        ("wolves", "wolf"),
        ("a cherry", "cherries"),
        ("a leaf", "leaves"),
        ("\uff21 \uff32\uff25\uff24 \uff21\uff30\uff30\uff2c\uff25", "a red apple"),
    ],
)
def test_forms_that_people_use(text: str, said: str) -> None:
    assert read(text).text == said


@pytest.mark.parametrize(
    ("given_text", "pair"),
    [
        ("apples", ("apples", "apple")),
        ("a puppy", ("puppy", "dog")),
        ("a lorry", ("lorry", "truck")),
        ("a fire truck", ("fire truck", "truck")),
        ("firetruck", ("firetruck", "truck")),
        ("a pine tree", ("pine tree", "tree")),
        ("a gray cat", ("gray", "grey")),
        ("a violet heart", ("violet", "purple")),
        ("a crimson heart", ("crimson", "red")),
        ("a cherry heart", ("cherry", "red")),
        ("an aeroplane", ("aeroplane", "airplane")),
        ("\U0001f34e", ("\U0001f34e", "red apple")),
        ("a green \U0001f34e", ("\U0001f34e", "apple")),
        ("\u2764\ufe0f", ("\u2764", "red heart")),
    ],
)
def test_near_words_are_read_as_known_ones(given_text: str, pair: tuple[str, str]) -> None:
    reading = read(given_text)
    assert reading.replaced == (pair,)
    assert reading.unread == ()


@pytest.mark.parametrize(
    ("text", "unread"),
    [
        ("Tokyo", ("Tokyo",)),
        ("seven", ("seven",)),
        ("the freedom of Rembrandt", ("freedom", "Rembrandt")),
        ("\u4e00\u53ea\u7ea2\u82f9\u679c", ("\u4e00\u53ea\u7ea2\u82f9\u679c",)),
        ("zyx qwv zyx", ("zyx", "qwv")),
        ("a guinea pig", ("guinea pig",)),
        ("a hot dog", ("hot dog",)),
        ("\U0001f5fc", ("\U0001f5fc",)),
        ("7\ufe0f\u20e3", ("7\u20e3",)),
    ],
)
def test_what_is_near_nothing_stays_unread(text: str, unread: tuple[str, ...]) -> None:
    assert read(text) == Reading("", (), unread)


def test_a_model_without_a_name_gets_no_words_for_it() -> None:
    small = Reader(lambda word: word in ("a", "red", "cat"), table())
    assert small("a red puppy, a kitten") == Reading("a red a cat", (("kitten", "cat"),), ("puppy",))


def job(*include: str, exclude: Sequence[str] = (), extras: Sequence[str] = ()) -> Job:
    made = [tuple(Prompt(text) for text in texts) for texts in (include, exclude, extras)]
    return Job(*made)


def test_each_text_has_one_notice_however_many_read_it() -> None:
    asked = job("a puppy over Tokyo", "apple", exclude=["seven", "apple!"], extras=["a puppy over Tokyo"])
    assert notices(asked, {"guide": [read, read], "judge": [read]}) == [
        "prompt 'a puppy over Tokyo': puppy is read as dog; Tokyo is not read; there is no verdict",
        "prompt 'seven': seven is not read; nothing of it is left",
    ]


def test_an_include_of_which_nothing_is_read_is_called_arbitrary() -> None:
    assert notices(job("zyx qwv"), {"guide": [read]}) == [
        "prompt 'zyx qwv': zyx, qwv are not read; nothing of it is left and the picture is arbitrary"
    ]


def test_readers_that_differ_are_named() -> None:
    said = notices(job("a puppy"), {"guide": [read], "judge": [Reading]})
    assert said == ["prompt 'a puppy' (guide): puppy is read as dog"]
    small = Reader(lambda word: word in ("a", "cat"), table())
    assert [line.partition(")")[0] for line in notices(job("a puppy"), {"guide": [read], "judge": [small]})] == [
        "prompt 'a puppy' (guide", "prompt 'a puppy' (judge",
    ]  # fmt: skip


def test_embedding_is_silent_and_encodes_what_is_read() -> None:
    state = dict(tiny_clip(1).state_dict())
    words = ["a", "red", "apple", "on", "white", "background"]
    ids = torch.tensor(sorted({*(i for word in words for i in clip.tokenizer.encode(word)), *clip.special_tokens()}))
    state["token_embedding.weight"] = state["token_embedding.weight"][ids]
    said: list[str] = []
    cut = clip.ClipPerceptor(clip.build(state), device=CPU, token_ids=ids.int(), notice=said.append)
    texts = ["A red apple, on white!", "a red apple on a white background over Tokyo", "\u82f9\u679c", ""]
    rows = cut.embed_text(texts)
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[2], rows[3])
    assert said == []
    assert cut.read(texts[1]).unread == ("Tokyo",)


def test_a_full_vocabulary_reads_a_text_as_it_is() -> None:
    whole = clip.ClipPerceptor(clip.build(tiny_clip(1).state_dict()), device=CPU)
    assert whole.read("A puppy, over Tokyo!") == Reading("A puppy, over Tokyo!")


def test_a_part_of_a_word_is_no_word() -> None:
    """ "t" is a token of "droplet", which taught the models nothing about the letter."""
    ids = sorted({i for word in WORDS for i in clip.tokenizer.encode(word)})
    whole = clip.reading_of(torch.tensor(ids))
    assert whole("a lined droplet T") == Reading("a droplet", (), ("lined", "T"))


def test_the_file_lists_each_phrase_once() -> None:
    listed = {"things": {"dog": ["puppy"]}, "colours": {}, "tints": {}, "words": {}, "emoji": {}, "apart": ["hot dog"]}
    small = Table.of(listed)
    assert Reader(lambda word: word in WORDS, small)("a puppy, a hot dog").text == "a dog"


def test_random_order_of_words_never_fails() -> None:
    rng = random.Random(5)
    pool = [*WORDS, *EMPTY, "puppy", "\U0001f34e", "zyx", ",", "hot dog"]
    for _ in range(300):
        text = " ".join(rng.choices(pool, k=rng.randint(0, 12)))
        once = read(text)
        assert read(once.text) == Reading(once.text), text
