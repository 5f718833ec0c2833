"""Files made to harm: each is refused in one line, runs nothing, and takes little time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import forge
import pytest
from forge import entry, mapping, safetensors, storage, tensor, torch_zip
from hostile import CALLS, CANARY, INNOCENT, LIMIT, SHELL, call, corpus

from vqclip.job import WeightsError
from vqclip.weights import checkpoints

ROOT = Path(__file__).parent.parent

READER = """
import sys, time, json
from pathlib import Path
from vqclip.job import WeightsError
from vqclip.weights import checkpoints

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

for path in sorted(Path(sys.argv[1]).iterdir()):
    before, start, said = peak(), time.process_time(), None
    try:
        checkpoints.read(path, limit=int(sys.argv[2]))
    except WeightsError as error:
        said = str(error)
    print(json.dumps([path.name, said, peak() - before, time.process_time() - start]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """What reading each file came to: message, growth of the peak memory in bytes, CPU seconds."""
    Path(CANARY).unlink(missing_ok=True)
    folder = tmp_path_factory.mktemp("hostile")
    for title, data in corpus().items():
        (folder / title.replace("/", "-")).write_bytes(data)
    command = [sys.executable, "-W", "ignore", "-c", READER, str(folder), str(LIMIT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(list(folder.iterdir())) >= 200
    for path in folder.iterdir():
        path.unlink()
    return {title: rest for title, *rest in found}


def test_all_are_refused_in_one_line_that_names_the_file(answers: dict[str, list[object]]) -> None:
    read = [title for title, (said, *_) in answers.items() if said is None]
    assert read == []
    for title, (said, *_) in answers.items():
        assert isinstance(said, str)
        assert title in said
        assert said.isprintable()
        assert len(said) < 600


def test_nothing_of_them_was_run(answers: dict[str, list[object]]) -> None:
    assert answers
    assert not Path(CANARY).exists()


def test_calls_are_refused_for_what_they_name(answers: dict[str, list[object]]) -> None:
    for dotted in CALLS:
        for title in (f"call {dotted}.safetensors", f"legacy call {dotted}.png"):
            assert f"it names {dotted}, which no weight file needs" in str(answers[title][0])


def test_memory_stays_under_twice_the_limit(answers: dict[str, list[object]]) -> None:
    grown = {title: rest[1] for title, rest in answers.items()}
    assert sum(grown.values()) < 2 * LIMIT, sorted(grown.items(), key=lambda item: -item[1])[:5]


def test_none_takes_long(answers: dict[str, list[object]]) -> None:
    slow = {title: rest[2] for title, rest in answers.items() if rest[2] > 10}
    assert slow == {}


def test_the_command_ends_with_3_and_one_line(tmp_path: Path, weight_files: dict[str, Path]) -> None:
    evil = tmp_path / "vqgan_imagenet.safetensors"
    evil.write_bytes(torch_zip(mapping({"hparams": call("os.system", SHELL)})))
    command = [
        sys.executable, "-m", "vqclip", "run", "include=a red apple", f"generator={evil}", "judge=none", "steps=1",
        f'guides=["{weight_files["guide"]}"]', f"outputs={tmp_path / 'outputs'}", "--progress", "none",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert evil.name in line
    assert not Path(CANARY).exists()


def test_every_cut_of_a_sound_file_is_refused(tmp_path: Path) -> None:
    """No prefix of a weight file passes for a smaller weight file."""
    whole = {
        "zip": torch_zip(mapping(INNOCENT)),
        "legacy": forge.legacy(mapping({"a": tensor(storage(legacy=True))}), {"0": bytes(16)}),
        "safetensors": safetensors({"a": entry([4], 0, 16)}, bytes(16)),
    }
    path = tmp_path / "weights"
    for data in whole.values():
        path.write_bytes(data)
        assert checkpoints.read(path)[0]["a"].tolist() == [0.0] * 4
        for length in range(0, len(data), 3):
            path.write_bytes(data[:length])
            with pytest.raises(WeightsError):
                checkpoints.read(path)


def test_flipped_bytes_never_do_worse_than_a_refusal(tmp_path: Path) -> None:
    """Each byte of the description changed in turn: read or refused, never another error."""
    whole = [
        torch_zip(mapping(INNOCENT)), safetensors({"a": entry([4], 0, 16)}, bytes(16)),
        forge.legacy(mapping({"a": tensor(storage(legacy=True))}), {"0": bytes(16)}),
    ]  # fmt: skip
    path, said = tmp_path / "weights", list[str]()
    for data in whole:
        for place in range(0, len(data), 2):
            path.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
            try:
                checkpoints.read(path, limit=LIMIT)
            except WeightsError as error:
                said.append(str(error))
    assert len(said) > 100
    assert all(map(str.isprintable, said))
