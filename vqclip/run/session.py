"""One picture for Python: keyword settings -> models and job, and a run folder where the settings ask for one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vqclip import config as configs
from vqclip.config import Config, Loaded
from vqclip.job import InputError, Job, Result
from vqclip.judge.judge import UNSURE
from vqclip.record import metadata
from vqclip.run import exact, recipe
from vqclip.run import picture as runner
from vqclip.run.assemble import Models, job_of, load_models
from vqclip.run.forecasts import forecasts
from vqclip.run.progress import Silent

RECORDED = ("name", "outputs", "video")  # whoever sets one of these wants files
LOGGED = ("log_every", "score_every")  # of metrics.jsonl, which lies in a run folder


@dataclass(frozen=True)
class Session:
    """The models and the config of one picture. `wants` are the settings that ask for a run folder."""

    models: Models
    config: Config
    wants: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any], *, files: bool = True) -> Session:
        """Check keyword settings like a config file and load their models; None means the default.

        Raises:
            InputError: a setting that is unknown, given twice or not allowed, or without `files` one that asks for a
                run folder. WeightsError: unusable weights.
        """
        given = nested({key: value for key, value in settings.items() if value is not None})
        config = configs.from_mapping(given, source="settings")
        if config.prompts:
            raise InputError("settings: `prompts` makes several pictures; call once per picture")
        if config.seeds > 1:
            raise InputError("settings: `seeds` makes several pictures; call once per seed")
        wants = tuple(key for key in RECORDED if key in given)
        if wants and not files:
            raise InputError(f"settings: {wants[0]}: steps() writes no files; generate() makes a run folder")
        for key in () if wants else sorted(given.keys() & set(LOGGED)):
            warnings.warn(f"{key} has no effect without a run folder; name, outputs or video makes one", stacklevel=3)
        session = cls(load_models(config), config, wants)
        for notice in session.models.notices(session.job):
            warnings.warn(notice, stacklevel=3)
        return session

    @property
    def job(self) -> Job:
        """The picture asked for."""
        return job_of(self.config)

    def check(self) -> None:
        """Refuse what these models cannot draw; ResourceError for what cannot fit into memory."""
        self.models.backend.check(self.job)
        if self.config.preflight:
            forecasts(self.models, self.job, timed=False)

    def make(self) -> Result:
        """The judged picture; in a run folder, as the command line makes it, where the settings ask for one.

        Raises what `vqclip.run.picture.run` raises.
        """
        if self.wants:
            (result,) = runner.run(Loaded(self.config, "", {}), Silent(), self.models)
            return result
        job = self.job
        self.check()
        with exact.deterministic() as undetermined:
            result, judge = self.models.backend.generate(job, lambda _step: None), self.models.judge_of(job)
            result = replace(result, verdict=judge.judge(result.image) if judge else None)
        if judge and not judge.refusal and result.verdict is None:
            warnings.warn(UNSURE, stacklevel=3)
        for line in exact.warning(undetermined):
            warnings.warn(line, stacklevel=3)
        return result

    def recipe(self) -> dict[str, str]:
        """The texts that a run puts into its final.png: what `vqclip rerun` reads."""
        (single,) = runner.singles(self.config)
        facts = self.models.facts
        return metadata.embed(
            job=self.job, config=recipe.to_metadata(single, facts),
            versions=facts["versions"], weights=facts["weights"],
            files=facts["files"], machine=exact.machine(facts),
        )  # fmt: skip


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with dotted keys, as on the command line, put in their sections: "crops.count": 4 is crops={"count": 4}.

    Raises:
        InputError: the same key in both ways.
    """
    made: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        inner: Any = made
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise InputError(f"settings: {key}: {section} has a value of its own; one of the two is allowed")
        added = dict(value) if isinstance(value, Mapping) else value  # the caller's own mapping stays as it is
        if name not in inner:
            inner[name] = added
        elif isinstance(inner[name], dict) and isinstance(added, dict) and not inner[name].keys() & added.keys():
            inner[name] |= added
        else:
            raise InputError(f"settings: {key}: given twice; once is allowed")
    return made
