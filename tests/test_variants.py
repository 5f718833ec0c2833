"""Runs made alike form one variant; what differs is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished_runs import CONFIG, JUDGE, job
from hypothesis import given
from hypothesis import strategies as st

from vqclip.compare.finished import Run
from vqclip.compare.variants import differences, group, settings
from vqclip.job import InputError, Prompt


def run(title: str = "apple", seed: int = 0, exclude: tuple[str, ...] = (), **config: Any) -> Run:
    task = job(title, seed, exclude=exclude)
    own = {"include": [title], "exclude": list(exclude), "seed": seed, "name": title, "outputs": f"out{seed}"}
    weights = {"generator": "aa" * 32, "judge": JUDGE}
    return Run(Path(f"/{title}-{seed}"), "done", task, CONFIG | own | config, {}, weights, (), {})


class TestSettings:
    def test_keys_are_dotted_and_pictures_left_out(self) -> None:
        found = settings(CONFIG)
        assert found["optimizer.lr"] == 0.1
        assert found["guides"] == [{"model": "starter", "weight": 1.0}]
        assert not {"include", "exclude", "extras", "prompts", "seed", "name", "outputs", "optimizer"} & set(found)
        assert settings({"seeds": 4, "variants": [{"backend": "vqgan"}], "seed": 1, "steps": 2}) == {"steps": 2}

    def test_an_empty_section_is_a_value(self) -> None:
        assert settings({"a": {}, "b": {"c": []}}) == {"a": {}, "b.c": []}


class TestDifferences:
    def test_only_what_differs_is_told(self) -> None:
        assert differences([{"a": 1, "b": 2}, {"a": 1, "b": 3}]) == [{"b": 2}, {"b": 3}]

    def test_a_missing_key_reads_none(self) -> None:
        one, other = {"a": 1, "b": None}, {"a": None, "b": [1]}
        assert differences([{"a": 1}, {"b": [1]}, {"a": 1}]) == [one, other, one]

    def test_the_order_of_keys_is_no_difference(self) -> None:
        assert differences([{"a": [{"x": 1, "y": 2}]}, {"a": [{"y": 2, "x": 1}]}]) == [{}, {}]

    @pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), (None, "null"), ("1", 1), ([], None)])
    def test_kinds_are_told_apart(self, one: Any, other: Any) -> None:
        expected = [{} if value is None else {"a": value} for value in (one, other)]
        found = differences([{"a": one}, {"a": other}])
        assert [{k: v for k, v in each.items() if v is not None} for each in found] == expected

    @given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)), max_size=4))
    def test_what_is_left_out_is_equal(self, each: list[dict[str, int]]) -> None:
        told = differences(each)
        assert len(told) == len(each)
        for key in "abcd":
            values = {one.get(key) for one in each}
            assert (len(values) > 1) == any(key in one for one in told)


class TestGroup:
    def test_prompt_seed_name_and_outputs_do_not_matter(self) -> None:
        runs = [run("apple", 0), run("apple", 1), run("cat", 0)]
        assert group(runs) == {"vqgan": runs}

    def test_backends_name_the_variants(self) -> None:
        one, other = run(), run(backend="kandinsky", steps=50)
        assert group([one, other]) == {"vqgan": [one], "kandinsky": [other]}

    def test_one_backend_is_told_apart_by_what_differs(self) -> None:
        found = group([run(steps=20), run(steps=30, optimizer={"name": "adam", "lr": 0.2}), run(steps=30)])
        assert list(found) == [
            "vqgan optimizer.lr=0.1 steps=20",
            "vqgan optimizer.lr=0.2 steps=30",
            "vqgan optimizer.lr=0.1 steps=30",
        ]

    def test_other_weights_of_one_name_are_another_variant(self) -> None:
        other = replace(run(), weights={"generator": "cc" * 32, "judge": JUDGE})
        assert list(group([run(), other])) == ["vqgan weights.generator=aaaaaaaa", "vqgan weights.generator=cccccccc"]

    def test_the_judge_makes_no_variant(self) -> None:
        assert len(group([run(), replace(run(seed=1), weights={"generator": "aa" * 32, "judge": "0" * 64})])) == 1

    def test_excluding_something_is_a_variant_where_it_is_compared(self) -> None:
        runs = [run(), run(exclude=("green",)), run("cat"), run("cat", exclude=("green",))]
        found = group(runs)
        assert list(found) == ["vqgan exclude=none", "vqgan exclude=green"]
        assert [[each.job.title for each in members] for members in found.values()] == [["apple", "cat"]] * 2

    def test_prompts_with_excludes_of_their_own_are_no_variants(self) -> None:
        assert len(group([run("apple", exclude=("green",)), run("cat")])) == 1

    def test_weights_of_prompts_tell_variants_apart(self) -> None:
        heavy = replace(run(), job=replace(run().job, include=(Prompt("apple", 2.0),)))
        assert list(group([run(), heavy])) == ["vqgan include.weight=[1.0]", "vqgan include.weight=[2.0]"]

    def test_the_same_picture_twice_is_refused(self) -> None:
        with pytest.raises(InputError, match="same picture") as caught:
            group([run(), replace(run(), folder=Path("/cop\ny"))])
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("backend", ["x" * 200, "a\nb", "", 7, None])
    def test_names_differ_whatever_a_config_says(self, backend: Any) -> None:
        found = group([run(backend=backend, steps=steps, preset="p" * 300) for steps in (1, 2)] + [run()])
        assert len(found) == 3
        assert all(len(name) < 100 for name in found)

    def test_the_order_of_runs_decides_only_the_order(self) -> None:
        runs = [run("apple", 0), run("apple", 0, steps=9), run("cat", 3)]
        there, back = group(runs), group(runs[::-1])
        assert {name: len(each) for name, each in there.items()} == {name: len(each) for name, each in back.items()}
