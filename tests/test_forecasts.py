"""Every picture is foreseen before it is begun: by run, compare and the API, of every backend, once a kind of work."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import vqclip
from vqclip import config as configs
from vqclip.cli.main import main
from vqclip.cli.progress import Quiet
from vqclip.job import ResourceError
from vqclip.run import comparison, forecasts, preflight
from vqclip.run.assemble import job_of, load_models


@pytest.fixture
def settings(weight_files: dict[str, Path]) -> dict[str, Any]:
    return {
        "include": "apple", "generator": str(weight_files["generator"]), "guides": [str(weight_files["guide"])],
        "judge": str(weight_files["judge"]), "size": [64, 64], "steps": 2, "precision": "fp32", "threads": 1,
        "crops": {"count": 2, "chunk": 2}, "kandinsky": {"steps": 2, "prior_steps": 2},
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_KNOWN", {})


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without memory, for runs alone: weights find room."""
    monkeypatch.setattr("vqclip.run.preflight_denoising.available", lambda _device: 0)
    monkeypatch.setattr(preflight, "available", lambda _device: 0)
    monkeypatch.setattr("vqclip.run.assemble.check_files", lambda *_, **__: None)
    monkeypatch.setattr("vqclip.run.assemble.check_files", lambda *_, **__: None)


def found(settings: dict[str, Any], **changes: Any) -> list[preflight.Forecast]:
    config = configs.from_mapping(settings | changes, source="test")
    return forecasts.forecasts(load_models(config), job_of(config))


def test_each_backend_of_a_chain_has_its_own(settings: dict[str, Any]) -> None:
    chain = {"backend": "vqgan", "start": {"kind": "backend", "backend": "kandinsky"}, "steps": 7}
    first, last = found(settings, **chain)
    assert (first.steps, last.steps) == (2, 7)
    (alone,) = found(settings, steps=7)
    assert alone.steps == 7
    assert (first.seconds or 0) > 0


def test_the_same_work_is_measured_once(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the models loaded anew, as the API does for each picture; other sizes, crops and models are other work."""
    counted: list[object] = []
    real = preflight.trace
    monkeypatch.setattr(preflight, "trace", lambda work: (counted.append(work), real(work))[1])
    found(settings)
    once = len(counted)
    assert once > 0
    found(settings, seed=5, include="a heart", steps=9)
    assert len(counted) == once
    found(settings, size=[96, 64])
    larger = len(counted)
    assert larger > once
    found(settings, crops={"count": 3, "chunk": 3})
    more = len(counted)
    assert more > larger
    found(settings, guides=[settings["judge"]])
    assert len(counted) > more


@pytest.mark.parametrize("backend", ["vqgan", "kandinsky"])
def test_a_run_that_cannot_fit_ends_with_4_before_it_begins(
    settings: dict[str, Any], narrow: None, tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {key: value for key, value in settings.items() if isinstance(value, str | int)}
    words = [f"{key}={value}" for key, value in names.items()]
    more = [f'guides=["{settings["guides"][0]}"]', "size=64,64", f"backend={backend}", f"outputs={tmp_path / 'out'}"]
    assert main(["run", *words, *more, "--progress", "none"]) == 4
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "lower" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("call", [vqclip.generate, vqclip.steps])
def test_the_api_refuses_too_and_can_do_without(settings: dict[str, Any], narrow: None, call: Any) -> None:
    with pytest.raises(ResourceError, match="lower"):
        call(**settings)
    made = call(**settings, preflight=False)
    assert made.image.shape == (3, 64, 64) if call is vqclip.generate else len(list(made)) == 3


def test_a_cell_that_cannot_fit_is_a_failure_of_its_own(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of two variants the larger one is refused before its picture is begun."""
    real = comparison.forecasts

    def large(models: Any, job: Any, **named: Any) -> Any:
        if job.size[0] > 64:
            monkeypatch.setattr(preflight, "available", lambda _device: 0)
        try:
            return real(models, job, **named)
        finally:
            monkeypatch.setattr(preflight, "available", lambda _device: 10**12)

    monkeypatch.setattr(comparison, "forecasts", large)
    variants = [{"backend": "vqgan", "name": "large", "set": ["size=128,64"]}, {"backend": "vqgan", "name": "small"}]
    values = settings | {"variants": variants, "prompts": ["apple", "heart"], "outputs": str(tmp_path), "name": "two"}
    del values["include"]
    said = StringIO()
    loaded = configs.Loaded(configs.from_mapping(values, source="test"), "", {})
    outcome = comparison.compare(loaded, Quiet(StringIO(), said))
    assert isinstance(outcome.fault, ResourceError)
    assert (outcome.done, outcome.count) == (2, 4)
    assert said.getvalue().count("small: about") == 1
    assert "large: about" not in said.getvalue()
    assert not list(tmp_path.glob("two/cells/large/*/run.json"))
