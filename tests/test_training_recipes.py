"""The table of recipes says what the shipped files say."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open

from training.recipes import RECIPES, TRAININGS, Diffusion, Recipe, Vqgan, describe
from training.sources import STYLES
from vqclip.weights.load import STARTER

SHIPPED = sorted(path.stem for path in STARTER.glob("*.safetensors"))


def test_every_shipped_model_has_a_recipe_and_its_own_seed() -> None:
    assert set(SHIPPED) == TRAININGS.keys() - {"guide-vit"}
    assert len({recipe.seed for recipe in TRAININGS.values()}) == len(TRAININGS)
    assert not any("SA" in STYLES[style].licence for recipe in TRAININGS.values() for style in recipe.styles)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_is_that_of_the_shipped_file(name: str) -> None:
    """Seed, minutes, drawings and every size of the network."""
    recipe = TRAININGS[name]
    with safe_open(STARTER / f"{name}.safetensors", "pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items() if value.startswith(("{", "["))}
    assert (recipe.seed, recipe.minutes) == (metadata["training"]["seed"], metadata["training"]["minutes"])
    assert [STYLES[style].name for style in recipe.styles] == [each["name"] for each in metadata["provenance"]]
    architecture = metadata["architecture"]
    if isinstance(recipe, Recipe):
        own = json.loads(json.dumps(recipe.architecture(architecture["vocab_size"])))
    elif isinstance(recipe, Vqgan):
        names = {"groups": "norm_groups", "channels": "ch", "multipliers": "ch_mult", "blocks": "num_res_blocks",
                 "z_channels": "z_channels", "code_dim": "embed_dim", "codes": "n_embed"}  # fmt: skip
        shape = describe(recipe)["shape"]
        own = {theirs: shape[ours] for ours, theirs in names.items()} | {"resolution": recipe.scene}
    else:
        own = describe(recipe)["shape"]
    assert own == architecture


def test_recipes_are_json_and_say_everything() -> None:
    said = describe(RECIPES["guide-rn"])
    assert (said["radius"], said["crops"]["haze"], said["layers"]) == (3.0, 0.6, [1, 1, 1, 1])
    assert json.loads(json.dumps(said)) == said


def test_pictures_are_of_the_sets_that_are_credited() -> None:
    for recipe in TRAININGS.values():
        if isinstance(recipe, Diffusion):
            assert recipe.styles == recipe.pictures.styles
