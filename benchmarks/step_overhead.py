"""What a step of 32 crops makes on the CPU and sends to an accelerator: `python -m benchmarks.step_overhead`.

"before" is how it was done: grids and noise made on the CPU and copied. "now" is a plan drawn on the CPU and packed
for one copy. Bytes are counted, milliseconds measured on one thread, median of 30. Writes
benchmarks/results/step_overhead.json.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vqclip.config import Config
from vqclip.loop.crops import Cropper, CropPlan, CropSpec, sampling_grid
from vqclip.loop.devices import in_one_copy

RESULTS = Path(__file__).parent / "results" / "step_overhead.json"
CROPS, SIDE, PICTURE = 32, 224, 256
CPU = torch.device("cpu")


def spec() -> CropSpec:
    """The default's crops, 32 of them at once, with noise on each."""
    own = vars(Config().crops) | {"count": CROPS, "chunk": CROPS, "noise": 0.1}
    return CropSpec(**own)


def before(plan: CropPlan) -> list[Tensor]:
    """What was copied: the grid, the noise, and four tensors of the plan."""
    noise = torch.randn(CROPS, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(plan.seed))
    made = [sampling_grid(plan.homography, SIDE), noise * plan.noise[:, None, None, None]]
    return [*made, plan.fill, plan.colour, plan.erased]


def now(plan: CropPlan) -> list[Tensor]:
    """What is copied."""
    return in_one_copy([plan.homography, plan.side, plan.colour, plan.erased, plan.fill, plan.noise], CPU)


def milliseconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(30):
        begun = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - begun))
    return round(statistics.median(taken), 2)


def main() -> None:
    torch.set_num_threads(1)
    cropper, rng = Cropper(spec()), torch.Generator().manual_seed(0)

    def draw() -> CropPlan:
        return cropper.draw(rng, width=PICTURE, height=PICTURE)

    plan = draw()
    found = {
        name: {
            "bytes": sum(each.numel() * each.element_size() for each in make(plan)),
            "copies": copies,
            "cpu_ms": milliseconds(lambda make=make: make(draw())),
        }
        for name, make, copies in (("before", before, 5), ("now", now, 1))
    }
    about = {"crops": CROPS, "side": SIDE, "threads": 1, "torch": torch.__version__, "machine": platform.machine()}
    RESULTS.write_text(json.dumps(about | found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
