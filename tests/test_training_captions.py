"""Captions say what is true, near misses say one false thing, and comparison by codes knows the difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clip.simple_tokenizer import SimpleTokenizer

from training.captions import (
    UNKNOWN,
    UNSAID,
    Codes,
    Meaning,
    Tokens,
    fits,
    leave_out,
    list_words,
    near_miss,
    say,
    with_article,
)

NAMES = ["apple", "cat", "umbrella", "grapes", "cat face", "octopus"]
TRUTH = Meaning("apple", "red", "white", "flat")


@pytest.mark.parametrize(
    ("words", "noun", "expected"),
    [
        ("apple", "apple", "an apple"),
        ("red apple", "apple", "a red apple"),
        ("orange cat", "cat", "an orange cat"),
        ("umbrella", "umbrella", "an umbrella"),
        ("unicorn", "unicorn", "a unicorn"),
        ("red grapes", "grapes", "red grapes"),
        ("octopus", "octopus", "an octopus"),
        ("blue bus", "bus", "a blue bus"),
    ],
)
def test_articles_are_english(words: str, noun: str, expected: str) -> None:
    assert with_article(words, noun) == expected


def test_a_caption_holds_every_word_of_its_meaning_and_no_other_colour() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        words = say(TRUTH, rng).split()
        assert {"red", "apple", "white", "background", "flat"} <= set(words)
        assert not {"blue", "green", "cat"} & set(words)


def test_meanings_without_a_name_still_make_sentences() -> None:
    rng = np.random.default_rng(0)
    assert say(Meaning(background="blue"), rng) == "a blue background"
    assert say(Meaning(colour="red"), rng) == "something red"


def test_what_is_left_of_a_truth_fits_the_picture_and_is_never_empty() -> None:
    rng, codes = np.random.default_rng(1), Codes(NAMES)
    said = [leave_out(TRUTH, rng) for _ in range(300)]
    picture = codes.encode([TRUTH], UNKNOWN)
    assert fits(picture, codes.encode(said, UNSAID)).all()
    assert Meaning() not in said
    assert len(set(said)) > 5


def test_a_near_miss_differs_in_one_field_or_exchanges_the_colours_and_never_fits() -> None:
    rng, codes = np.random.default_rng(2), Codes(NAMES)
    picture, exchanged = codes.encode([TRUTH], UNKNOWN), 0
    for _ in range(300):
        said = leave_out(TRUTH, rng)
        missed = near_miss(said, TRUTH, NAMES, rng)
        changed = [f for f in ("name", "colour", "background", "style") if getattr(said, f) != getattr(missed, f)]
        if len(changed) == 2:
            exchanged += 1
            assert (missed.colour, missed.background) == (said.background, said.colour)
        else:
            assert len(changed) == 1
        assert not fits(picture, codes.encode([missed], UNSAID)).any()
    assert 5 < exchanged < 100


def test_an_unknown_colour_makes_no_negative() -> None:
    codes = Codes(NAMES)
    pictures = codes.encode([Meaning("apple"), Meaning("apple", "red")], UNKNOWN)
    captions = codes.encode([Meaning("apple", "blue"), Meaning("cat")], UNSAID)
    assert fits(pictures, captions).tolist() == [[True, False], [False, False]]


def test_an_unknown_word_has_no_code() -> None:
    with pytest.raises(KeyError):
        Codes(NAMES).encode([Meaning("zebra")], UNSAID)


def test_every_caption_is_within_the_listed_words_and_tokens() -> None:
    rng = np.random.default_rng(3)
    words = set(list_words(NAMES))
    tokens = Tokens(sorted(words))
    truths = [Meaning(name, "orange", "blue", "outlined") for name in NAMES]
    captions = [say(leave_out(truth, rng), rng) for truth in truths for _ in range(100)]
    assert {word for caption in captions for word in caption.split()} <= words
    assert tokens(captions).shape[1] <= 20


def test_token_rows_stand_for_the_original_byte_pairs() -> None:
    tokens, bpe = Tokens(list_words(NAMES)), SimpleTokenizer()
    row = tokens(["a red apple", "cat"])
    ids = tokens.ids[row[0]].tolist()
    start, end = bpe.encoder["<|startoftext|>"], bpe.encoder["<|endoftext|>"]
    assert ids[: ids.index(end) + 1] == [start, *bpe.encode("a red apple"), end]
    assert row.argmax(1).tolist() == [4, 2]  # the end token is the largest row, as clip.model.CLIP needs it
    assert torch.equal(tokens.ids.sort().values, tokens.ids)
    with pytest.raises(KeyError):
        tokens(["a zebra"])
