"""The table of near words: kinds and likely relations are in it, rare senses and unlike words are not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from test_training_wordnet import package
from torch import Tensor
from torch.nn import functional as F

from training import readings, wordnet
from training.sources import Emoji
from vqclip.starter.words import Table

VOCABULARY = {"concepts": ["dog", "cat"], "words": ["a", "dog", "cat", "red", "photo", "grey"]}


class Model:
    """Vectors that say how alike texts are: those that share a word of `alike` point the same way."""

    whole_words = frozenset({"dog", "cat", "puppy", "sheep", "rex", "animal", "run"})

    def __init__(self, *alike: set[str]) -> None:
        self._alike = alike

    def embed(self, texts: Sequence[str]) -> Tensor:
        rows = torch.zeros(len(texts), len(self._alike) + 200)
        for row, text in zip(rows, texts, strict=True):
            groups = [place for place, words in enumerate(self._alike) if words & set(text.replace(":", "").split())]
            row[groups[0] if groups else len(self._alike) + hash(text) % 200] = 1
        return F.normalize(rows, dim=-1)


@pytest.fixture
def book(tmp_path: Path) -> wordnet.WordNet:
    return wordnet.read(package(tmp_path))


def made(book: wordnet.WordNet, *alike: set[str], emojis: Sequence[Emoji] = ()) -> readings.Readings:
    return readings.make(book, emojis, VOCABULARY, Model(*alike))  # type: ignore[arg-type]  # two methods of it


def test_kinds_of_a_name_are_read_as_it(book: wordnet.WordNet) -> None:
    things = made(book, {"dog", "puppy"}).things
    assert things["puppy"] == "dog"
    assert things["domestic dog"] == "dog"  # one meaning: needs no likeness
    assert things["kitten"] == "cat"  # by its definition alone
    assert not {"dog", "cat", "tokyo", "city", "animal", "run", "sheep", "rex"} & set(things)


def test_a_common_word_has_to_be_alike(book: wordnet.WordNet) -> None:
    assert "puppy" not in made(book).things
    assert "rex" in made(book, {"rex", "dog"}).things  # a proper name too


def test_a_sister_in_wordnet_needs_more(book: wordnet.WordNet) -> None:
    assert made(book, {"sheep", "cat"}).things["sheep"] == "cat"  # word and definition alike: 2 of 2
    assert "sheep" not in made(book, {"woolly", "cat"}).things


def test_phrases_that_are_no_kind_of_their_words_stay_apart(book: wordnet.WordNet) -> None:
    assert made(book).apart == {"hot dog"}


def test_shades_are_read_as_basic_colours(book: wordnet.WordNet) -> None:
    colours = made(book).colours
    assert colours["crimson"] == "red"
    assert colours["gray"] == "grey"
    assert "red" not in colours


def test_emoji_are_read_by_their_labels(book: wordnet.WordNet) -> None:
    emojis = [
        Emoji("dog face", "1F436", "animals-nature", "animal-mammal", (), ("dog",)),
        Emoji("black cat", "1F408-200D-2B1B", "animals-nature", "animal-mammal", (), ()),
        Emoji("kitten", "1F431-FE0F", "animals-nature", "animal-mammal", (), ()),
        Emoji("grinning face", "1F600", "smileys-emotion", "face-smiling", (), ()),
    ]
    found = made(book, emojis=emojis).emoji
    assert found == {"\U0001f436": "dog", "\U0001f408\u200d\u2b1b": "black cat", "\U0001f431": "cat"}


def test_the_file_is_read_as_it_was_made(
    book: wordnet.WordNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = made(book, {"dog", "puppy"})
    monkeypatch.setattr(readings, "fetch", lambda package, _folder: package)
    monkeypatch.setattr(readings.wordnet, "read", lambda _tarball: book)
    monkeypatch.setattr(readings, "read_emojis", lambda _tarball: [])
    monkeypatch.setattr(readings.sentences, "fetch", lambda folder: folder)
    monkeypatch.setattr(readings.sentences, "Sentences", lambda _wheel: Model({"dog", "puppy"}))
    monkeypatch.setattr(readings, "STARTER", tmp_path)
    monkeypatch.setattr("sys.argv", ["readings"])
    (tmp_path / "vocabulary.json").write_text(json.dumps(VOCABULARY))
    readings.main()
    read = Table.of(json.loads((tmp_path / "readings.json").read_text(encoding="utf-8")))
    assert (dict(read.things), dict(read.colours), set(read.apart)) == (table.things, table.colours, table.apart)
    assert "readings.json" in capsys.readouterr().out
