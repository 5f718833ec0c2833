"""Finds the files of Kandinsky 2.2, on this machine or on the Hugging Face hub, and opens its two halves.

Reads safetensors only and builds classes that are named here, never those that a file names. Does not run
the pipelines.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vqclip.backends.diffusion import quiet
from vqclip.job import ResourceError, WeightsError
from vqclip.weights import regular, store
from vqclip.weights.tensors import damaged

Part = Literal["prior", "decoder", "inpaint"]

NAME = "kandinsky-2.2"  # stands for the three published repositories
HUB: Mapping[Part, str] = {  # repository @ the commit of its safetensors files: 10.6, 5.3 and 5.3 GB
    "prior": "kandinsky-community/kandinsky-2-2-prior@9fc51ad5732afc5d031724219d22e6c42179c5a8",
    "decoder": "kandinsky-community/kandinsky-2-2-decoder@9ae140d347fed8ce6e8bb3005dcc1f48543bb8e3",
    "inpaint": "kandinsky-community/kandinsky-2-2-decoder-inpaint@db790ad5cbcabed886f069ef2710774657621702",
}
_DECODER = {"unet": "UNet2DConditionModel", "movq": "VQModel", "scheduler": "DDPMScheduler"}
_PARTS: Mapping[Part, Mapping[str, str]] = {
    "prior": {
        "prior": "PriorTransformer",
        "image_encoder": "CLIPVisionModelWithProjection",
        "text_encoder": "CLIPTextModelWithProjection",
        "tokenizer": "CLIPTokenizer",
        "scheduler": "UnCLIPScheduler",
        "image_processor": "CLIPImageProcessor",
    },
    "decoder": _DECODER,
    "inpaint": _DECODER,
}
# One of the files in each tuple must be there.
_NETWORK = (("config.json",), ("*.safetensors",))
_FILES: Mapping[str, Sequence[tuple[str, ...]]] = {
    "tokenizer": (("tokenizer.json", "merges.txt"), ("tokenizer.json", "vocab.json")),
    "scheduler": (("scheduler_config.json",),),
    "image_processor": (("preprocessor_config.json",),),
}
_PATTERNS = ("*.json", "*.txt", "*.safetensors")  # the repositories hold every weight a second time, as .bin


@dataclass(frozen=True)
class Found:
    """Where a part lies: its components are folders `prefix` + name in `folder`. `name` identifies the weights."""

    part: Part
    folder: Path
    prefix: str
    name: str


def find(model: str, part: Part, note: Callable[[str], None] = lambda _line: None) -> Found:
    """Find a part of Kandinsky 2.2 and see that it is complete; what is missing is fetched where `model` allows it.

    Args:
        model: "kandinsky-2.2" for the published weights, a hub repository `owner/name[@revision]`, or a
            folder: one with prior/, decoder/ and inpaint/, one that holds the part itself, or a saved
            Combined pipeline, which has both halves.
        part: which of the three.
        note: takes a line before something large is fetched. VQCLIP_OFFLINE and HF_HUB_OFFLINE forbid it.

    Raises:
        WeightsError: no such folder, something missing or of another model, or the hub does not give it.
        ResourceError: no room for what is fetched.
    """
    given = Path(model).expanduser()
    if given.is_dir():
        folder, name = given / part if (given / part / "model_index.json").is_file() else given, str(given.resolve())
    elif model != NAME and (model.count("/") != 1 or given.parent.is_dir()):
        raise WeightsError(
            f"{model}: no such folder; {NAME!r}, owner/name[@revision] on the hub, or a folder is needed"
        )
    else:
        folder = _fetch(HUB[part] if model == NAME else model, part, note)
        name = f"{model}@{folder.name}"  # the hub's cache names the folder after the commit
    prefix = _prefix(folder, part)
    found = Found(part, folder, prefix, f"{name}/{prefix}{part}")
    _check_files(found)
    return found


def is_here(part: Part) -> bool:
    """Whether the published files of a part lie in the hub's cache as a whole; nothing is fetched."""
    try:
        there = _snapshot(HUB[part], part, local=True)
        _check_files(Found(part, there, _prefix(there, part), HUB[part]))
    except (OSError, ValueError, WeightsError):
        return False
    return True


def _snapshot(repository: str, part: Part, *, local: bool) -> Path:
    """The folder of a repository in the hub's own cache; `local` fetches nothing."""
    from huggingface_hub import snapshot_download

    repo, _, revision = repository.partition("@")
    patterns = ["model_index.json", *(f"{name}/{kind}" for name in _PARTS[part] for kind in _PATTERNS)]
    # without a bar: the hub's client draws its own
    got = snapshot_download(repo, revision=revision or "main", allow_patterns=patterns, local_files_only=local)
    return Path(got)


def _fetch(repository: str, part: Part, note: Callable[[str], None]) -> Path:
    """A snapshot of a repository in the hub's own cache, fetched as far as it is not there."""
    repo = repository.partition("@")[0]
    with quiet():
        try:
            there = _snapshot(repository, part, local=True)
            _check_files(Found(part, there, _prefix(there, part), repo))
            return there
        except (OSError, ValueError, WeightsError):
            if store.is_offline():
                raise WeightsError(
                    f"{repo} is not here as a whole, and offline is asked for: {_way(repository)}"
                ) from None
        note(f"{repo}: fetching its {part} files from the hub, several GB")
        try:
            return _snapshot(repository, part, local=False)
        except Exception as error:  # the hub's client, and what that one is built on, raise dozens
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise ResourceError(f"{repo}: the disk is full; its {part} files need several GB") from error
            raise WeightsError(f"{repo} could not be fetched ({_line(error)}): {_way(repository)}") from error


def _way(repository: str) -> str:
    """The command that fetches a repository."""
    repo, _, revision = repository.partition("@")
    chosen = f" --revision {revision}" if revision else ""
    return f"hf download {repo}{chosen} " + " ".join(f'--include "{pattern}"' for pattern in _PATTERNS)


def _prefix(folder: Path, part: Part) -> str:
    """What stands before the names of a part's components: "prior_" in a saved Combined pipeline, mostly ""."""
    kind = str(_json(folder / "model_index.json", part).get("_class_name"))
    if not kind.startswith("KandinskyV22"):
        raise WeightsError(f"{folder}: holds a {kind[:60]}; {_wanted(part)} is needed: {_way(HUB[part])}")
    combined = "Combined" in kind
    if not combined and (part == "prior") != ("Prior" in kind):
        raise WeightsError(f"{folder}: holds a {kind[:60]}; {_wanted(part)} is needed: {_way(HUB[part])}")
    return "prior_" if combined and part == "prior" else ""


def _wanted(part: Part) -> str:
    return f"Kandinsky 2.2's {'inpainting decoder' if part == 'inpaint' else part}"


def _check_files(found: Found) -> None:
    """Raise WeightsError for the first component or file that is not there or no file, or a unet of another part."""
    for name in _PARTS[found.part]:
        path = found.folder / f"{found.prefix}{name}"
        if path.is_dir():
            try:
                regular.check(path)
            except OSError as error:
                raise WeightsError(f"{error.filename}: {error.strerror}: {_way(HUB[found.part])}") from error
        for choice in _FILES.get(name, _NETWORK):
            if not any(any(path.glob(pattern)) for pattern in choice):
                unsafe = ", only unsafe .bin files" if any(path.glob("*.bin")) else ""
                missing = f"{path}: {' or '.join(choice)} is missing{unsafe}"
                raise WeightsError(f"{missing}; {_wanted(found.part)} needs it: {_way(HUB[found.part])}")
    if found.part != "prior":
        path = found.folder / "unet" / "config.json"
        check_unet(_json(path, found.part), str(path), inpaint=found.part == "inpaint")


def weight_files(found: Found) -> list[Path]:
    """What will be loaded of a found part: of every network the plain file, or one of several parts."""
    folders = (found.folder / f"{found.prefix}{name}" for name in _PARTS[found.part] if name not in _FILES)
    held = [sorted(path.glob("*.safetensors"), key=lambda path: len(path.name)) for path in folders]
    return [files[0] for files in held if files]


def check_unet(config: Mapping[str, Any], where: str, *, inpaint: bool) -> None:
    """Raise WeightsError for a unet that is not made for the task: 4 input channels, with a mask 9; 8 out."""
    wanted, given = 9 if inpaint else 4, config.get("in_channels")
    if given != wanted:
        task = "repainting under a mask" if inpaint else "pictures without a mask"
        way = _way(HUB["inpaint" if inpaint else "decoder"])
        raise WeightsError(f"{where}: the unet has {given} input channels; {task} needs {wanted}: {way}")
    if config.get("out_channels") != 8:
        raise WeightsError(f"{where}: the unet has {config.get('out_channels')} output channels; Kandinsky 2.2's has 8")


def open_prior(found: Found, *, dtype: torch.dtype) -> Any:
    """The KandinskyV22PriorPipeline of a found prior, on the CPU in one precision.

    Raises:
        WeightsError: damaged files, or weights that do not fit their configuration.
    """
    from diffusers import KandinskyV22PriorPipeline

    build: Any = KandinskyV22PriorPipeline
    parts = _open_parts(found, dtype)
    most = parts["text_encoder"].config.max_position_embeddings
    # A tokenizer saved without its configuration believes that it may write 1e30 tokens.
    parts["tokenizer"].model_max_length = min(parts["tokenizer"].model_max_length, most)
    return build(**parts)


def open_decoder(found: Found, *, dtype: torch.dtype) -> Any:
    """The KandinskyV22Pipeline of a found decoder, or for part "inpaint" the KandinskyV22InpaintPipeline.

    Raises:
        WeightsError: damaged files, or weights that do not fit their configuration.
    """
    from diffusers import KandinskyV22InpaintPipeline, KandinskyV22Pipeline

    build: Any = KandinskyV22InpaintPipeline if found.part == "inpaint" else KandinskyV22Pipeline
    return build(**_open_parts(found, dtype))


def _open_parts(found: Found, dtype: torch.dtype) -> dict[str, Any]:
    import diffusers
    import transformers

    opened = {}
    for name, kind in _PARTS[found.part].items():
        path = found.folder / f"{found.prefix}{name}"
        builder: Any = getattr(diffusers, kind, None) or getattr(transformers, kind)
        with quiet():
            try:
                opened[name] = _open(builder, path, dtype) if name not in _FILES else builder.from_pretrained(path)
            except WeightsError:
                raise
            except Exception as error:  # damaged files end as a dozen kinds of error
                raise WeightsError(f"{path}: cannot be opened ({_line(error)}): {_way(HUB[found.part])}") from error
    return opened


def _open(builder: Any, path: Path, dtype: torch.dtype) -> Any:
    """A network with all of its weights: the loaders draw what a file lacks at random and only warn."""
    made, info = builder.from_pretrained(
        path, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
    )
    for fault in ("missing_keys", "mismatched_keys"):
        if faulty := sorted(map(str, info.get(fault, ()))):
            raise WeightsError(f"{path}: {len(faulty)} {fault.replace('_', ' ')}, the first is {faulty[0][:80]}")
    if (broken := damaged(made.state_dict().items())) is not None:
        raise WeightsError(f"{path}: {broken} holds NaN or infinite numbers; fetch or export it again")
    return made.eval()


def _json(path: Path, part: Part) -> dict[str, Any]:
    try:
        with regular.opened(path) as file:
            read = json.loads(file.read().decode())
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; {_wanted(part)} needs it: {_way(HUB[part])}") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read ({_line(error)}): {_way(HUB[part])}") from error
    if not isinstance(read, dict):
        raise WeightsError(f"{path}: not a JSON object: {_way(HUB[part])}")
    return read


def _line(error: BaseException) -> str:
    """An error's message on one line, cut to what fits."""
    return " ".join(str(error).split())[:160] or type(error).__name__
