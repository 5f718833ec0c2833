"""How well the preflight foresees the memory of a run: `python -m benchmarks.preflight`.

Random weights of true sizes, one process per case: the models are loaded from files, the preflight forecasts, the
whole run makes one step, and the kernel says how much memory the process had at most. Writes
benchmarks/results/preflight.json. The seconds depend on what else the machine does, those of the processor less so.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn

from vqclip import config
from vqclip.cli.progress import Quiet
from vqclip.job import Step
from vqclip.run import memory
from vqclip.run import picture as runner
from vqclip.run.assemble import load_models
from vqclip.run.preflight import preflight

RESULTS = Path(__file__).parent / "results" / "preflight.json"
F16_16384 = (128, (1, 1, 2, 2, 4), 2, (4,), 3, 3, 256, 16384, 256, False)
STARTER = (32, (1, 1, 2, 4), 1, (), 3, 3, 64, 1024, 64, False, 8)
VIT_B_32 = (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12)
SMALL_VIT = (256, 64, 6, 192, 8, 77, 49408, 192, 3, 4)
CPU = torch.device("cpu")
THREADS = 1  # so that seconds of the processor mean something on a busy machine
Case = dict[str, object]


def cases() -> list[Case]:
    full = [
        {"models": "full", "precision": precision, "size": 256, "count": count, "chunk": 8}
        for precision in ("bf16", "fp32")
        for count in (8, 32)
    ]
    return [*full, {"models": "starter", "precision": "fp32", "size": 128, "count": 16, "chunk": 16}]


def forge(folder: Path) -> None:
    """The four weight files, with numbers that keep signals finite."""
    from vqclip.generators import vqgan

    for name, shape in (("full", F16_16384), ("starter", STARTER)):
        architecture = json.dumps({"norm_groups": shape[10] if len(shape) > 10 else 32})
        state = _random(lambda shape=shape: vqgan.VQModel(vqgan.Architecture(*shape)), torch.float32)
        save_file(state, folder / f"{name}-vqgan.safetensors", {"architecture": architecture})
    torch.save(_random(lambda: CLIP(*VIT_B_32), torch.float16), folder / "full-clip.pt")
    torch.save(_random(lambda: CLIP(*SMALL_VIT), torch.float16), folder / "starter-clip.pt")


def _random(build: object, dtype: torch.dtype) -> dict[str, Tensor]:
    with torch.device("meta"):
        model: nn.Module = build()  # type: ignore[operator]
    rng = torch.Generator().manual_seed(0)
    state = {}
    for key, value in model.state_dict().items():
        kind = dtype if value.is_floating_point() else value.dtype
        spread = value[0].numel() ** -0.5 if value.dim() > 1 else 0.0
        state[key] = torch.empty(value.shape).normal_(0.0 if value.dim() > 1 else 1.0, spread, generator=rng).to(kind)
    return state


class Watch(Quiet):
    """Keeps the time from step to step: the way back of one and the way forth of the next."""

    def __init__(self, *streams: IO[str], notes: bool) -> None:
        super().__init__(*streams, notes=notes)
        self.seconds: list[float] = []
        self.worked: list[float] = []
        self._last = time.perf_counter(), time.process_time()

    def step(self, step: Step, terms: Mapping[str, float] | None) -> None:
        now = time.perf_counter(), time.process_time()
        self.seconds.append(now[0] - self._last[0])
        self.worked.append(now[1] - self._last[1])
        self._last = now


def measure(case: Case, folder: Path) -> Case:
    """Forecast and truth of one case, in this process."""
    clip = str(folder / f"{case['models']}-clip.pt")
    settings = {
        "include": "a lighthouse in a storm", "exclude": "text", "steps": 1, "judge": None, "video": {"formats": []},
        "generator": str(folder / f"{case['models']}-vqgan.safetensors"), "guides": [clip], "threads": THREADS,
        "size": [case["size"], case["size"]], "precision": case["precision"], "outputs": str(folder / "outputs"),
        "crops": {"count": case["count"], "chunk": case["chunk"]}, "device": "cpu",
    }  # fmt: skip
    loaded = config.Loaded(config.from_mapping(settings, source="benchmark"), "", {})
    models = load_models(loaded.config, lambda _message: None)
    before, loading = memory.held(CPU)
    backend, begun, worked = models.backend, time.perf_counter(), time.process_time()
    size = (int(str(case["size"])),) * 2
    forecast = preflight(backend.generator, backend.guides, backend.recipe.crops, size=size, steps=1)
    probe, probe_worked, probed = time.perf_counter() - begun, time.process_time() - worked, memory.held(CPU)[1]
    watch = Watch(sys.stderr, sys.stderr, notes=False)
    runner.run(loaded, watch, models)
    peak = memory.held(CPU)[1]
    return case | {
        "held_gb": round(before / 1e9, 3), "loading_peak_gb": round(loading / 1e9, 3),
        "after_probe_peak_gb": round(probed / 1e9, 3), "forecast_gb": round(forecast.peak / 1e9, 3),
        "measured_gb": round(peak / 1e9, 3), "forecast_over_measured": round(forecast.peak / peak, 3),
        "probe_seconds": round(probe, 2), "probe_processor_seconds": round(probe_worked, 2),
        "forecast_step_seconds": round(forecast.seconds, 2), "step_seconds": round(watch.seconds[1], 2),
        "step_processor_seconds": round(watch.worked[1], 2), "line": forecast.line,
    }  # fmt: skip


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(json.loads(sys.argv[1]), Path(sys.argv[2]))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        forge(Path(name))
        for case in cases():
            command = [sys.executable, "-m", "benchmarks.preflight", json.dumps(case), name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "threads": THREADS, "torch": torch.__version__}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, "cases": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
