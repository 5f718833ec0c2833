"""What has no effect is said once, with its place; what has one is not."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from vqclip import config as configs
from vqclip.config import load
from vqclip.config.effects import COMPARISON_RULES, RULES, RUN_RULES, notices
from vqclip.config.schema import leaves


def said(*overrides: str) -> list[str]:
    loaded = load(None, ["include=a red apple", *overrides])
    return notices(loaded.origins, [loaded.config])


STARTED = ["start.kind=image", "start.image=a.png"]
MASKED = ["backend=kandinsky", "size=128,128", *STARTED, "kandinsky.mask=m.png"]


@pytest.mark.parametrize(
    ("overrides", "key", "why"),
    [
        (["keep_by=judge"], "keep_by", "keep is not set"),
        (["backend=kandinsky", "size=128,128", "seeds=2", "keep=1"], "keep", "draws seeds side by side"),
        (["start.kind=backend", "start.backend=kandinsky", "checkpoint.every=3"], "checkpoint.every", "makes ch"),
        (["variants=vqgan"], "variants", "only `compare`"),
        (["kandinsky.steps=3"], "kandinsky.steps", "kandinsky draws nothing here"),
        (["stable_diffusion.guidance=3"], "stable_diffusion.guidance", "stable-diffusion draws nothing here"),
        (["backend=kandinsky", "size=128,128", "steps=3"], "steps", "only the loop of backend vqgan has it"),
        (["backend=kandinsky", "size=128,128", "crops.count=3"], "crops.count", "only the loop"),
        (["backend=stable-diffusion", "extras=x", "losses.extras=2"], "losses.extras", "joins extras"),
        (["backend=kandinsky", "size=128,128", "start.kind=mean"], "start.kind", "begins with pure noise"),
        (["start.kind=noise", "start.image=a.png"], "start.image", "start.kind is another than image"),
        (["start.kind=noise", "start.cells=3"], "start.cells", "only a smooth start"),
        ([*STARTED, "tries=2"], "tries", "a start picture is the only start"),
        ([*STARTED, "coarse=0"], "coarse", "a start picture is the only start"),
        (["tries=1", "tries_share=1"], "tries_share", "there is one start"),
        (["denoiser.model=none", "denoiser.noise=0.5"], "denoiser.noise", "there is no denoiser"),
        (["generator=x.ckpt", "denoiser.churn=0"], "denoiser.churn", "there is no denoiser"),
        (["denoiser.strength=1"], "denoiser.strength", "there is no start picture"),
        (["crops.method=pooled", "crops.rotate=3"], "crops.rotate", "crops.method is pooled"),
        (["losses.exclude=2"], "losses.exclude", "nothing is excluded"),
        (["exclude=x:1:2", "losses.exclude_stop=1"], "losses.exclude_stop", "a stop of its own"),
        (["losses.extras=2"], "losses.extras", "there are no extras"),
        (["exclude=x", "losses.exclude=0"], "exclude", "losses.exclude is 0"),
        (["extras=x", "losses.extras=0"], "extras", "losses.extras is 0"),
        (["backend=kandinsky", "size=128,128", "kandinsky.strength=1"],
         "kandinsky.strength", "there is no start picture"),
        ([*MASKED, "kandinsky.strength=1"], "kandinsky.strength", "from noise"),
        ([*MASKED, "kandinsky.decoder=./d"], "kandinsky.decoder", "kandinsky.inpaint draws"),
        (["backend=kandinsky", "size=128,128", "kandinsky.inpaint=./d"], "kandinsky.inpaint", "there is no mask"),
        (["backend=stable-diffusion", "stable_diffusion.strength=1"], "stable_diffusion.strength", "no start picture"),
        (["judge=none", "score_every=1"], "score_every", "there is no judge"),
        (["video.formats=[]", "video.hold=3"], "video.hold", "video.formats is empty"),
    ],
)
def test_a_setting_without_effect_is_said_with_its_reason(overrides: list[str], key: str, why: str) -> None:
    (line,) = [line for line in said(*overrides) if f": {key} has no effect" in line]
    assert line.startswith("override: ")
    assert why in line


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["seeds=3", "kandinsky.steps=50", "denoiser.model=none"],  # the defaults, or what has an effect
        ["steps=3", "tries=2", "tries_share=1", "crops.rotate=3", "denoiser.noise=0.5", "start.cells=3", "judge=none"],
        ["backend=kandinsky", "size=128,128", "kandinsky.steps=3", *STARTED, "kandinsky.strength=1"],
        ["start.kind=backend", "start.backend=kandinsky", "kandinsky.steps=3", "steps=3"],
        ["backend=kandinsky", "size=128,128", "start.kind=backend", "start.backend=vqgan", "tries=2", "coarse=0"],
        ["exclude=x", "losses.exclude=2", "extras=y", "losses.extras=2", "losses.exclude_stop=1"],
        ["tries=1", "tries_share=1", "exclude=x"],  # excludes and looks begin after the tries
        [*STARTED, "tries_share=1", "extras=flat"],
        ["preset=reference"],
        ["seeds=3", "keep=1", "keep_by=judge", "keep_share=0.3", "batch=2"],
        ["preset=reference", "steps=3"],
    ],
)
def test_what_has_an_effect_is_not_said(overrides: list[str]) -> None:
    assert said(*overrides) == []


def test_keys_with_one_reason_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("include: a\nkandinsky:\n  steps: 3\n  guidance: 2\nvariants: [vqgan]\n")
    loaded = load(path)
    assert set(notices(loaded.origins, [loaded.config])) == {
        f"{path}:5: variants has no effect: only `compare` has variants",
        f"{path}:3: kandinsky.steps, kandinsky.guidance have no effect: kandinsky draws nothing here",
    }


def test_settings_that_spoil_a_picture_are_said_where_they_work() -> None:
    (line,) = said("crops.overview=0", "crops.scale=.2,.4")
    assert line.startswith("override: crops.overview: no crop shows more than half of the picture")
    assert said("crops.overview=0") == []
    (line,) = said("average=0.9")
    assert line.startswith("override: average: the mean of so many latents")
    assert said("average=0.9", "denoiser.model=none") == []
    (line,) = said("average=0.9", "backend=kandinsky", "size=128,128")
    assert "has no effect" in line


def test_the_small_kandinsky_is_said_to_know_one_size() -> None:
    (line,) = said("backend=kandinsky")
    assert line.startswith("override: backend: the small Kandinsky was trained at 128x128")
    assert said("backend=kandinsky", "kandinsky.decoder=hub/name") == []


def test_of_a_comparison_only_what_no_variant_uses_is_said() -> None:
    loaded = load(None, ["include=a", "seeds=3", "kandinsky.steps=3", "stable_diffusion.steps=3", "steps=4"])
    columns = [dataclasses.replace(loaded.config, backend=backend) for backend in ("vqgan", "kandinsky")]
    (line,) = notices(loaded.origins, columns, rules=RULES)
    assert "stable_diffusion.steps has no effect" in line


def test_prompts_that_contradict_each_other_are_said_once() -> None:
    lines = said("exclude=A  red Apple.")
    assert lines == ["'a red apple' is included and excluded; the two pull against each other"]
    loaded = load(None, ["prompts=[{include: a, exclude: a}, {include: a, exclude: a}, b]"])
    assert len(notices(loaded.origins, [loaded.config])) == 1
    assert "the stop of 'x' has no effect" in "".join(said("backend=kandinsky", "size=128,128", "exclude=x:1:2"))


def test_a_finished_runs_config_says_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "config.resolved.yaml"
    path.write_text(configs.to_yaml(load(None, ["include=a", "steps=3"]).config))
    loaded = load(path)
    assert notices(loaded.origins, [loaded.config]) == []


def test_every_rule_names_keys_that_exist() -> None:
    names = [key.path for key in leaves()]
    for rule in RUN_RULES:
        for pattern in rule.keys:
            assert any(fnmatchcase(name, pattern) for name in names), pattern


def test_a_comparison_makes_every_seed_alone() -> None:
    loaded = load(None, ["include=a", "seeds=4", "keep=2"])
    (line,) = notices(loaded.origins, [loaded.config], rules=COMPARISON_RULES)
    assert line == "override: keep has no effect: `compare` makes every seed's picture alone"
