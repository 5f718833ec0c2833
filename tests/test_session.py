"""Settings of the Python API: dotted keys, what asks for a run folder, and the recipe of a picture."""

from __future__ import annotations

import json
import types
import warnings
from pathlib import Path

import pytest

from vqclip.job import InputError
from vqclip.run.session import Session, nested


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"steps": 3}, {"steps": 3}),
        ({"crops.count": 4}, {"crops": {"count": 4}}),
        ({"crops.count": 4, "crops.chunk": 2}, {"crops": {"count": 4, "chunk": 2}}),
        ({"crops.count": 4, "crops": {"chunk": 2}}, {"crops": {"count": 4, "chunk": 2}}),
        ({"crops": {"chunk": 2}, "crops.count": 4}, {"crops": {"chunk": 2, "count": 4}}),
        ({"a.b.c": 1, "a.b.d": [2]}, {"a": {"b": {"c": 1, "d": [2]}}}),
        ({"include": {"text": "a.b", "weight": 2}}, {"include": {"text": "a.b", "weight": 2}}),
    ],
)
def test_dotted_keys_go_into_their_sections(settings: dict[str, object], expected: dict[str, object]) -> None:
    kept = json.dumps(settings)
    assert nested(settings) == expected
    assert json.dumps(settings) == kept


def test_mappings_that_are_no_dict_are_read_and_left_alone() -> None:
    crops = types.MappingProxyType({"chunk": 2})
    assert nested({"crops": crops, "crops.count": 4}) == {"crops": {"chunk": 2, "count": 4}}
    assert dict(crops) == {"chunk": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crops": {"count": 4}, "crops.count": 4}, r"crops\.count: given twice"),
        ({"crops.count": 4, "crops": {"count": 8}}, r"crops: given twice"),
        ({"crops.count": 4, "crops": 8}, r"crops: given twice"),
        ({"steps": 4, "steps.more": 1}, r"steps\.more: steps has a value of its own"),
    ],
)
def test_the_same_key_in_two_ways_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        nested(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crops.cuont": 4}, r"settings: unknown key 'crops\.cuont'; did you mean 'crops\.count'\?$"),
        ({"crop.count": 4}, r"unknown key 'crop'; did you mean 'crops'\?$"),
        ({"crops.count": 0}, r"settings: crops\.count: got 0"),
        ({"crops.": 0}, r"unknown key 'crops\.'"),
        ({".".join("a" * 5000): 1}, "more than 32 levels"),
    ],
)
def test_mistakes_in_dotted_keys_are_named_as_written(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Session.of({"include": "apple", **settings})


@pytest.fixture
def settings(weight_files: dict[str, Path]) -> dict[str, object]:
    return {
        "include": "apple", "generator": str(weight_files["generator"]), "guides": [str(weight_files["guide"])],
        "judge": str(weight_files["judge"]), "size": [32, 32], "steps": 1, "precision": "fp32", "threads": 1,
    }  # fmt: skip


def test_name_outputs_and_video_ask_for_a_folder(settings: dict[str, object]) -> None:
    assert Session.of(settings).wants == ()
    assert Session.of({**settings, "name": None, "video": None}).wants == ()
    assert Session.of({**settings, "name": "apple"}).wants == ("name",)
    assert Session.of({**settings, "video.seconds": 2, "outputs": "here"}).wants == ("outputs", "video")


def test_logging_without_a_folder_is_said_to_have_no_effect(settings: dict[str, object]) -> None:
    with pytest.warns(UserWarning, match="score_every has no effect without a run folder"):
        Session.of({**settings, "score_every": 5})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Session.of({**settings, "score_every": 5, "name": "apple"})


def test_the_recipe_is_the_whole_config_with_the_threads_that_ran(settings: dict[str, object]) -> None:
    session = Session.of({**settings, "crops.count": 3, "threads": 1})
    envelope = json.loads(session.recipe()["vqclip"])
    assert envelope["config"]["crops"]["count"] == 3
    assert envelope["config"]["threads"] == 1
    assert set(envelope["weights"]) == {"generator", "guide 0", "judge"}
