"""Places that are safe and unique for any text; a comparison resumes with what is missing and loses nothing."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished_runs import CONFIG, edit, flat, job, make_cell, make_run
from hypothesis import given, settings
from hypothesis import strategies as st

from vqclip.compare.cells import KEPT, Cell, adopt, folder_of, make_room, state, unfinished
from vqclip.compare.finished import read_run
from vqclip.job import InputError, Job, Prompt, ResourceError

ROOT = Path("/r")
SAFE = re.compile(r"[a-z0-9][a-z0-9-]{0,79}")
TEXTS = st.text(st.characters(exclude_categories=()), min_size=1, max_size=80).filter(str.strip)
JOBS = st.builds(
    lambda include, exclude, seed: Job(tuple(map(Prompt, include)), tuple(map(Prompt, exclude)), seed=seed),
    st.lists(TEXTS, min_size=1, max_size=3),
    st.lists(TEXTS, max_size=2),
    st.integers(0, 2**63 - 1),
)


def cell(root: Path, title: str = "apple", seed: int = 0, **more: Any) -> Cell:
    task = job(title, seed)
    return Cell("vqgan", task, folder_of(root, "vqgan", task), CONFIG, **more)


class TestPlace:
    @given(TEXTS, JOBS)
    @settings(max_examples=150)
    def test_any_text_gives_safe_names_below_the_root(self, variant: str, task: Job) -> None:
        parts = folder_of(ROOT, variant, task).relative_to(ROOT / "cells").parts
        assert len(parts) == 2
        assert all(SAFE.fullmatch(part) for part in parts)

    @given(TEXTS, JOBS, TEXTS, JOBS)
    @settings(max_examples=150)
    def test_different_cells_have_different_places(self, one: str, first: Job, other: str, second: Job) -> None:
        same = (one, first) == (other, second)
        assert (folder_of(ROOT, one, first) == folder_of(ROOT, other, second)) == same

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (("a, b",), ("a", "b")), (("A",), ("a",)), (("ä",), ("a",)), (("a ",), ("a",)), (("猫",), ("犬",)),
            (("x" * 200,), ("x" * 201,)), (("../../etc",), ("etc",)), (("a\0",), ("a",)), (("\ud800",), ("\ud801",)),
            (("\ud800",), ("\\ud800",)),
        ],
    )  # fmt: skip
    def test_texts_that_look_alike(self, one: tuple[str, ...], other: tuple[str, ...]) -> None:
        first, second = (folder_of(ROOT, "v", Job(tuple(map(Prompt, texts)))) for texts in (one, other))
        assert first != second
        assert str(first).casefold() != str(second).casefold()

    def test_weights_stops_parts_and_seeds_count(self) -> None:
        plain = Job((Prompt("a"),))
        others = [
            Job((Prompt("a", 2.0),)), Job((Prompt("a", 1.0, 0.5),)), Job((Prompt("a"),), seed=1),
            Job((Prompt("a"),), (Prompt("b"),)), Job((Prompt("a"),), (), (Prompt("b"),)),
        ]  # fmt: skip
        assert len({folder_of(ROOT, "v", each) for each in (plain, *others)}) == 6

    def test_size_and_steps_belong_to_the_variant(self) -> None:
        plain, other = Job((Prompt("a"),)), Job((Prompt("a"),), size=(8, 8), steps=7)
        assert folder_of(ROOT, "v", plain) == folder_of(ROOT, "v", other)

    def test_the_name_can_be_read_and_never_changes(self) -> None:
        found = folder_of(ROOT, "stable-diffusion", job("A red apple, on white!", 3))
        assert found == Path("/r/cells/stable-diffusion/a-red-apple-on-white-f043ff0b87-s3")

    @pytest.mark.parametrize("variant", ["con", "nul", "com1", "CON", "..", "/", "a b", "vqgan.", "Vqgan"])
    def test_names_that_a_system_keeps_or_folds_get_a_hash(self, variant: str) -> None:
        name = folder_of(ROOT, variant, job()).parent.name
        assert re.fullmatch(r"[a-z0-9-]+-[0-9a-f]{10}", name)


class TestState:
    def test_a_finished_run_of_the_job_is_done(self, tmp_path: Path) -> None:
        assert state(make_cell(cell(tmp_path))) == "done"

    def test_nothing_is_missing(self, tmp_path: Path) -> None:
        assert state(cell(tmp_path)) == "missing"

    @pytest.mark.parametrize(("status", "expected"), [("failed", "failed"), ("interrupted", "broken")])
    def test_runs_that_ended_early(self, tmp_path: Path, status: str, expected: str) -> None:
        assert state(make_cell(cell(tmp_path), status=status)) == expected

    def test_a_killed_run_is_broken(self, tmp_path: Path) -> None:
        made = make_cell(cell(tmp_path))
        edit(made.folder, status="running")
        assert state(made) == "broken"

    @pytest.mark.parametrize("damage", ["empty", "no json", "no picture", "other picture", "cut picture", "a file"])
    def test_damage_is_noticed(self, tmp_path: Path, damage: str) -> None:
        made = make_cell(cell(tmp_path))
        picture = made.folder / "final.png"
        match damage:
            case "empty":
                shutil.rmtree(made.folder)
                made.folder.mkdir()
            case "no json":
                (made.folder / "run.json").write_text('{"schema": 1, "sta')
            case "no picture":
                picture.unlink()
            case "other picture":
                shutil.copy(make_run(tmp_path / "b", image=flat(1.0, 0.0, 0.0)) / "final.png", picture)
            case "cut picture":
                picture.write_bytes(picture.read_bytes()[:-1])
            case "a file":
                shutil.rmtree(made.folder)
                made.folder.write_text("x")
        assert state(made) == "broken"

    def test_a_link_to_nowhere_is_not_missing(self, tmp_path: Path) -> None:
        wanted = cell(tmp_path)
        wanted.folder.parent.mkdir(parents=True)
        wanted.folder.symlink_to(tmp_path / "nowhere")
        assert state(wanted) == "broken"

    def test_another_job_or_config_is_stale(self, tmp_path: Path) -> None:
        made = make_cell(cell(tmp_path))
        assert state(replace(made, job=replace(made.job, steps=9))) == "stale"
        assert state(replace(made, config=CONFIG | {"steps": 9})) == "stale"
        assert state(replace(made, config=CONFIG | {"optimizer": {"name": "adam", "lr": 0.2}})) == "stale"

    def test_what_belongs_to_one_picture_or_machine_is_not_stale(self, tmp_path: Path) -> None:
        made = make_cell(cell(tmp_path))
        loose = CONFIG | {"outputs": "x", "name": "y", "seed": 4, "threads": None, "size": (16, 16)}
        assert state(replace(made, config=loose)) == "done"
        assert state(replace(made, config={})) == "done"


class TestResume:
    def test_only_what_is_not_done_is_left(self, tmp_path: Path) -> None:
        cells = [cell(tmp_path, title, seed) for title in ("apple", "cat") for seed in (0, 1)]
        assert unfinished(cells) == cells
        make_cell(cells[0])
        make_cell(cells[1], status="failed")
        make_cell(cells[2], status="interrupted")
        assert unfinished(cells) == cells[1:]
        assert unfinished(cells, retry_failed=False) == cells[2:]

    def test_room_is_made_without_losing_anything(self, tmp_path: Path) -> None:
        wanted = cell(tmp_path)
        assert make_room(wanted) is None
        assert wanted.folder.parent.is_dir()
        for number in (1, 2, 3):
            made = make_cell(wanted, status="interrupted")
            kept = (made.folder / "run.json").read_bytes()
            aside = make_room(made)
            assert aside == made.folder.with_name(f"{made.folder.name}.broken-{number}")
            assert (aside / "run.json").read_bytes() == kept
            assert state(made) == "missing"
        assert len(list(wanted.folder.parent.iterdir())) == 3

    def test_files_and_dead_links_are_set_aside_too(self, tmp_path: Path) -> None:
        wanted = cell(tmp_path)
        make_room(wanted)
        wanted.folder.write_text("precious")
        aside = make_room(wanted)
        assert aside is not None
        assert aside.read_text() == "precious"
        wanted.folder.symlink_to("nowhere")
        other = make_room(wanted)
        assert other is not None
        assert other != aside
        assert other.is_symlink()

    def test_a_refusal_of_the_system_is_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = make_cell(cell(tmp_path))
        monkeypatch.setattr("os.rename", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        with pytest.raises(InputError, match="set aside \\(Permission denied\\)"):
            make_room(made)


class TestAdopt:
    def test_what_is_shown_is_copied(self, tmp_path: Path) -> None:
        run = read_run(make_run(tmp_path / "elsewhere"))
        (run.folder / "progress.mp4").write_bytes(b"film")
        found = adopt(run, tmp_path / "root", "vqgan")
        assert found.folder == folder_of(tmp_path / "root", "vqgan", run.job)
        assert {path.name for path in found.folder.iterdir()} == {
            "final.png", "run.json", "metrics.jsonl", "progress.mp4",
        }  # fmt: skip
        assert state(found) == "done"
        assert found.row == run.job.title

    def test_adopting_twice_is_adopting_once(self, tmp_path: Path) -> None:
        run = read_run(make_run(tmp_path / "elsewhere"))
        first = adopt(run, tmp_path / "root", "vqgan")
        before = (first.folder / "run.json").stat().st_ino
        assert adopt(run, tmp_path / "root", "vqgan") == first
        assert adopt(read_run(first.folder), tmp_path / "root", "vqgan") == first
        assert (first.folder / "run.json").stat().st_ino == before
        assert len(list(first.folder.parent.iterdir())) == 1

    def test_another_picture_in_its_place_is_set_aside(self, tmp_path: Path) -> None:
        old, new = (read_run(make_run(tmp_path / n, image=flat(v, v, v))) for n, v in (("a", 0.1), ("b", 0.9)))
        adopt(old, tmp_path / "root", "vqgan")
        found = adopt(new, tmp_path / "root", "vqgan")
        assert read_run(found.folder).outputs == new.outputs
        aside = found.folder.with_name(f"{found.folder.name}.broken-1")
        assert read_run(aside).outputs == old.outputs

    def test_links_are_not_followed(self, tmp_path: Path) -> None:
        run = read_run(make_run(tmp_path / "elsewhere"))
        (tmp_path / "secret").write_text("secret")
        (run.folder / "progress.mp4").symlink_to(tmp_path / "secret")
        found = adopt(run, tmp_path / "root", "vqgan")
        assert not (found.folder / "progress.mp4").exists()

    def test_what_is_larger_than_any_run_s_is_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = read_run(make_run(tmp_path / "elsewhere"))
        (run.folder / "progress.mp4").write_bytes(bytes(2000))
        (run.folder / "config.yaml").mkdir()
        monkeypatch.setattr("vqclip.compare.cells.KEPT", KEPT | {"progress.mp4": 1999})
        found = adopt(run, tmp_path / "root", "vqgan")
        assert {path.name for path in found.folder.iterdir()} == {"final.png", "run.json", "metrics.jsonl"}

    @pytest.mark.parametrize("which", ["cells", "cells/vqgan"])
    def test_nothing_is_renamed_or_written_behind_a_link(self, tmp_path: Path, which: str) -> None:
        run = read_run(make_run(tmp_path / "elsewhere"))
        root, mine = tmp_path / "root", tmp_path / "mine"
        there = folder_of(root, "vqgan", run.job).relative_to(root / which)
        (mine / there).mkdir(parents=True)
        (root / which).parent.mkdir(parents=True, exist_ok=True)
        (root / which).symlink_to(mine)
        before = sorted(path.relative_to(mine) for path in mine.rglob("*"))
        with pytest.raises(InputError, match="is a link; what lies behind it is left alone"):
            adopt(run, root, "vqgan")
        assert sorted(path.relative_to(mine) for path in mine.rglob("*")) == before

    def test_a_full_disk_leaves_no_half_copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = read_run(make_run(tmp_path / "elsewhere"))
        real = shutil.copyfileobj

        def full(source: Any, target: Any) -> None:
            if target.name.endswith("run.json"):
                raise OSError(28, "No space left on device")
            real(source, target)

        monkeypatch.setattr("shutil.copyfileobj", full)
        with pytest.raises(ResourceError, match="No space left"):
            adopt(run, tmp_path / "root", "vqgan")
        assert list(folder_of(tmp_path / "root", "vqgan", run.job).parent.iterdir()) == []
