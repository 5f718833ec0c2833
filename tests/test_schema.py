"""Every key is documented, bounded and has a default that it accepts itself."""

from __future__ import annotations

import dataclasses
import inspect
import math
from importlib import resources
from pathlib import Path

from vqclip.config.document import plain
from vqclip.config.layers import read_layer
from vqclip.config.schema import AUGMENTATIONS, Config, Crops, Key, Latent, Losses, keys, leaves
from vqclip.generators.vqgan import VQGAN
from vqclip.loop.augment import AUGMENTATIONS as KORNIA
from vqclip.loop.crops import CropSpec
from vqclip.loop.losses import DISTANCES


def test_every_leaf_has_a_doc_line_and_numbers_have_limits() -> None:
    found = list(leaves())
    assert len(found) == len({key.path for key in found}) > 40
    for key in found:
        assert 5 < len(key.doc) < 90, key.path
        assert key.doc.isprintable()
        if key.kind in (int, float):  # an unbounded number would let inf through
            assert max(key.low, key.above) > -math.inf, key.path
            assert min(key.high, key.below) < math.inf, key.path


def test_defaults_pass_their_own_checks() -> None:
    for key in leaves():
        if key.kind in (int, float, bool, str):
            names = key.path.split(".")
            value = list(key.default) if isinstance(key.default, tuple) else key.default
            tree: object = {names[-1]: value}
            if len(names) > 1:
                tree = {names[0]: tree}
            checked = read_layer(plain(tree, "m"))[key.path].value
            assert checked == value, key.path


def test_wanted_names_the_range_and_the_choices() -> None:
    wanted = {key.path: key.wanted for key in leaves()}
    assert wanted["steps"] == "a whole number from 0 to 100000 is needed"
    assert wanted["average"] == "a finite number from 0, below 1, is needed"
    assert wanted["optimizer.lr"] == "a finite number above 0 to 100 or none is needed"
    assert wanted["size"] == "a list of two, each a whole number from 16 to 4096, is needed"
    assert wanted["precision"] == "one of auto, fp32, bf16 is needed"
    assert wanted["threads"].endswith("or none is needed")
    assert wanted["video.keep"] == "true or false is needed"


def test_names_match_those_of_the_parts_they_configure() -> None:
    assert set(AUGMENTATIONS) == set(KORNIA)
    assert {each.name for each in dataclasses.fields(Crops)} == {each.name for each in dataclasses.fields(CropSpec)}
    CropSpec(**dataclasses.asdict(Config().crops))
    options = set(inspect.signature(VQGAN).parameters) - {"model", "device", "dtype", "fast"}
    assert {each.name for each in dataclasses.fields(Latent)} | {"pull"} == options
    found = keys(Losses, "losses.")
    assert isinstance(found["distance"], Key)
    assert set(found["distance"].choices) == set(DISTANCES)


def test_every_preset_is_a_file_and_every_file_a_preset() -> None:
    preset = keys()["preset"]
    assert isinstance(preset, Key)
    files = resources.files("vqclip.config").joinpath("presets").iterdir()
    assert set(preset.choices) == {Path(each.name).stem for each in files if each.name.endswith(".yaml")}


def test_keys_know_leaves_from_sections() -> None:
    found = keys()
    assert isinstance(found["steps"], Key)
    assert found["crops"] is Crops
    assert isinstance(keys(Crops, "crops.")["count"], Key)
    assert keys(Crops, "crops.")["count"].path == "crops.count"
