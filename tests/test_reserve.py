"""Room for the result is there before the work begins, or the work does not begin."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from vqclip import images
from vqclip.job import ResourceError
from vqclip.record import reserve
from vqclip.record.reserve import Reserve, room


def refused(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_room_is_really_taken_and_given_back(tmp_path: Path) -> None:
    kept = Reserve(tmp_path, (64, 64))
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == room((64, 64))
    assert file.stat().st_blocks * 512 >= room((64, 64)), "a file with holes reserves nothing"
    kept.release()
    kept.release()
    assert list(tmp_path.iterdir()) == []


def test_where_room_cannot_be_asked_for_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    kept = Reserve(tmp_path, (64, 64))
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == room((64, 64))
    kept.release()


def test_no_room_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", refused)
    with pytest.raises(ResourceError, match=r"no room for the result, 0\.3 MB; free some space"):
        Reserve(tmp_path, (64, 64))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ResourceError, match=r"cannot be written \(No such file"):
        Reserve(tmp_path / "gone", (64, 64))


def test_a_limit_of_the_system_is_seen_before_the_run(tmp_path: Path) -> None:
    code = """
        import resource, sys
        from pathlib import Path
        from vqclip.record.reserve import Reserve
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            Reserve(Path(sys.argv[1]), (256, 256))
        except RuntimeError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "no room for the result" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("side", [16, 64, 300])
def test_the_worst_picture_fits_with_its_page(side: int) -> None:
    """Noise, of which PNG saves nothing: the picture itself and, in base64, once more on the page."""
    noise = torch.from_numpy(np.random.default_rng(0).random((3, side, side), dtype=np.float32))
    size = len(images.to_png(noise))
    assert size + 4 * size / 3 + 100_000 < room((side, side))
    assert room((side, side)) < 3 * 3 * side * side + (1 << 20), "nor much more than that"


def test_names_are_not_to_be_guessed(tmp_path: Path) -> None:
    for _ in range(3):
        Reserve(tmp_path, (16, 16))
    assert len({path.name for path in tmp_path.iterdir()}) == 3
    assert reserve.FULL
