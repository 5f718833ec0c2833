"""How the starter models read what people write: `python -m benchmarks.reading`, figures in results/reading.json.

Sixty prompts, drawn by a seed: captions with punctuation, in other cases, with plurals, emoji and nouns that the
models never saw; the latter two from the held-out half of reading_words.json. Forty words that are near no name have to
stay unread, each with one notice. Beside them all of the held-out words, read alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from training.captions import Meaning, say
from vqclip.config import from_mapping
from vqclip.job import Job, Prompt, Reading
from vqclip.run.assemble import Models, load_models
from vqclip.starter.words import vocabulary

HERE = Path(__file__).parent
SEED = 2026
COUNTS = {"punctuation": 10, "case": 10, "plurals": 12, "emoji": 14, "synonyms": 14}
STRANGE = (
    "Tokyo", "Rembrandt", "Einstein", "Brazil", "seven", "42", "1984", "freedom", "justice", "tomorrow", "\u82f9\u679c",
    "pomme", "\u044f\u0431\u043b\u043e\u043a\u043e", "\u308a\u3093\u3054", "zyx qwv", "asdf",
)  # fmt: skip


def punctuated(caption: str, rng: random.Random) -> str:
    """The caption with marks after some words, and one at the end."""
    words = [word + rng.choice(["", "", "", ",", ";", "..."]) for word in caption.split()]
    quoted = [f'"{word}"' if rng.random() < 0.1 else word for word in words]
    return " ".join(quoted) + rng.choice("!.?")


def recased(caption: str, rng: random.Random) -> str:
    """The caption in capitals, as a title, or in any case."""
    mixed = "".join(letter.upper() if rng.random() < 0.5 else letter for letter in caption)
    return rng.choice([caption.upper(), caption.title(), mixed])


def plural(name: str) -> str:
    """The regular plural of English, and the few irregular ones that the names have."""
    odd = {"mouse": "mice", "wolf": "wolves", "snowman": "snowmen", "fish": "fishes"}
    if name in odd:
        return odd[name]
    if name.endswith(("s", "x", "ch", "sh")):
        return f"{name}es"
    if name.endswith(("y",)) and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}es" if name in ("potato", "tomato", "volcano") else f"{name}s"


def prompts(words: dict[str, dict[str, list[str]]]) -> Iterator[tuple[str, str, str, list[str]]]:
    """(kind, what a user writes, the caption with {} for the name, the names that it may be)."""
    rng, draws = random.Random(SEED), np.random.default_rng(SEED)
    known = json.loads((HERE.parent / "vqclip" / "starter" / "vocabulary.json").read_text(encoding="utf-8"))
    for kind, change in (("punctuation", punctuated), ("case", recased)):
        for _ in range(COUNTS[kind]):
            drawn = Meaning(*(rng.choice(known[key]) for key in ("concepts", "colours", "backgrounds")))
            caption = say(drawn, draws)
            yield kind, change(caption, rng), caption, [""]
    single = [name for name in known["concepts"] if name not in ("cherries", "grapes", "leaves", "fries", "cow face")]
    for name in rng.sample(single, COUNTS["plurals"]):
        colour, ground = rng.sample(known["colours"], 2)
        yield "plurals", f"{colour} {plural(name)} on {ground}", f"{colour} {{}} on {_ground(ground)}", [name]
    for kind, key in (("emoji", "emoji"), ("synonyms", "words")):
        certain = [word for word, names in words[key].items() if "" not in names]
        for word in rng.sample(certain, COUNTS[kind]):
            colour, ground = rng.sample(known["colours"], 2)
            yield kind, f"{colour} {word} on {ground}", f"{colour} {{}} on {_ground(ground)}", words[key][word]


def _ground(colour: str) -> str:
    return f"{'an' if colour == 'orange' else 'a'} {colour} background"


def main() -> None:
    """Read everything and write the figures."""
    words = json.loads((HERE / "reading_words.json").read_text(encoding="utf-8"))["test"]
    models = load_models(from_mapping({"include": "apple", "threads": 1}, source="benchmark"))
    read = models.readers[0]
    rows = []
    for kind, text, caption, names in prompts(words):
        reading = read(text)
        right = not reading.unread and reading.text in [caption.format(name) for name in names]
        rows.append({"kind": kind, "text": text, "read": reading.text, "right": right})
    strangers = _strangers(words, models)
    alone = _alone(words, read)
    result = {
        "seed": SEED,
        "right": sum(row["right"] for row in rows),
        "of": len(rows),
        "by_kind": {kind: sum(row["right"] for row in rows if row["kind"] == kind) for kind in COUNTS},
        "strangers_unread_with_one_notice": sum(row["right"] for row in strangers),
        "of_strangers": len(strangers),
        "held_out_alone": alone,
        "prompts": rows,
        "strangers": strangers,
    }
    text = json.dumps(result, ensure_ascii=False, indent=1)
    (HERE / "results" / "reading.json").write_text(text + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key not in ("prompts", "strangers")}, indent=1))
    print("\n".join(str(row) for row in (*rows, *strangers) if not row["right"]))


def _strangers(words: dict[str, dict[str, list[str]]], models: Models) -> list[dict[str, Any]]:
    far = [word for word, names in words["words"].items() if names == [""]]
    rows = []
    for word in (*STRANGE, *random.Random(SEED).sample(far, 40 - len(STRANGE))):
        notices = models.notices(Job((Prompt(f"a {word}"),)))
        reading = models.readers[0](f"a {word}")
        right = len(notices) == 1 and not reading.replaced and bool(reading.unread) and not reading.text
        rows.append({"text": f"a {word}", "notices": notices, "right": right})
    return rows


def _alone(words: dict[str, dict[str, list[str]]], read: Callable[[str], Reading]) -> dict[str, Any]:
    """Every held-out word and emoji by itself: read as one of its names, unread where it may be, or wrong."""
    wrong, missed, right = [], [], 0
    for word, names in [*words["words"].items(), *words["emoji"].items()]:
        said = read(word).text
        bare = said.split(" ", 1)[1] if " " in said and said.split()[0] in vocabulary()["colours"] else said
        if bare in names:
            right += 1
        else:
            (wrong if said else missed).append([word, said])
    return {"right": right, "of": right + len(wrong) + len(missed), "wrong": wrong, "missed": missed}


if __name__ == "__main__":
    main()
