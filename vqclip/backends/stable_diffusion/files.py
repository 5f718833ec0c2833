"""Opens the networks of Stable Diffusion 1.5 from one weight file or a folder of diffusers, without a network.

Makes no picture and moves nothing to a GPU. There is no safety checker: it is not part of the weights.
"""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqclip.backends.diffusion import quiet
from vqclip.backends.stable_diffusion import layout as layouts
from vqclip.backends.stable_diffusion.layout import NEEDED, REPOSITORY, TEXT, UNET, VAE, Layout
from vqclip.job import ResourceError, WeightsError
from vqclip.weights import load as weights
from vqclip.weights import regular, store
from vqclip.weights.tensors import damaged

_GET_FOLDER = (
    f'`hf download {REPOSITORY} --include "*.json" "*.txt" "[tuv]*/*.fp16.safetensors" --local-dir weights/sd15` '
    "fetches a whole one"
)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NETWORKS = ("unet", "vae", "text_encoder")
_CONFIGS = {
    **{part: "config.json" for part in _NETWORKS},
    "scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json",
}  # fmt: skip


@dataclass(frozen=True)
class Models:
    """The networks in memory, on the CPU.

    `name` is for people; `hashes` has the SHA-256 of every weight file by its name; `parts` has unet, vae,
    text_encoder, tokenizer and scheduler, which pipelines share.
    """

    name: str
    hashes: Mapping[str, str]
    parts: Mapping[str, Any]

    def pipeline(self, *, from_picture: bool) -> Any:
        """A diffusers pipeline around these networks: image-to-image, or text-to-image."""
        import diffusers

        kind = diffusers.StableDiffusionImg2ImgPipeline if from_picture else diffusers.StableDiffusionPipeline
        with quiet():
            return kind(**self.parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def open(path: str | Path, *, dtype: torch.dtype = torch.float32, layout: Layout | None = None) -> Models:
    """The networks at `path`: a .safetensors or .ckpt file that holds all of them, or a folder of diffusers.

    What a file is, is decided by its content. A .ckpt is read without running what it pickles, and a large
    one kept as safetensors in the store for the next time. Nothing is ever fetched.

    Args:
        path: file or folder.
        dtype: of all weights.
        layout: what a file must hold; None is Stable Diffusion 1.5. A folder brings its own.

    Raises:
        WeightsError: missing, damaged, incomplete, or another model; one line. ResourceError: no memory
            or no room for temporary files.
    """
    place = Path(path).expanduser()
    shown = str(path) if str(path).isprintable() else repr(str(path))
    if not place.exists():
        raise WeightsError(f"{shown}: nothing is there; {NEEDED}")
    with quiet(), _one_line(shown):
        return _from_folder(place, dtype) if place.is_dir() else _from_file(place, dtype, layout or Layout())


@contextmanager
def _one_line(shown: str) -> Iterator[None]:
    """Every fault of a model as one line that begins with its path."""
    try:
        yield
    except (ResourceError, MemoryError, torch.OutOfMemoryError):
        raise
    except WeightsError as error:
        line = str(error)
        raise WeightsError(line if line.startswith(shown) else f"{shown}: {line}") from error
    except Exception as error:  # on damaged files the libraries raise a dozen kinds, some of their own
        if "DefaultCPUAllocator" in str(error):  # how torch says that memory ran out
            raise ResourceError(f"{shown}: no memory for its networks; close other programs") from error
        if isinstance(error, OSError) and error.errno in _FULL:
            raise ResourceError(f"{shown}: no space for {error.filename or 'temporary files'}; free some") from error
        said = " ".join(ascii(str(error))[1:-1].replace("\\n", " ").split())[:200]
        raise WeightsError(f"{shown}: cannot be used ({said or type(error).__name__}); {NEEDED}") from error


def _from_file(path: Path, dtype: torch.dtype, layout: Layout) -> Models:
    loaded = weights.load(path, parts=layouts.PARTS)
    state, hashes = dict(loaded.state), {path.name: loaded.sha256}
    del loaded  # each part leaves the memory as soon as its network is built
    with tempfile.TemporaryDirectory(prefix="vqclip-") as made:
        folder = Path(made)
        layouts.write(folder, layout)
        layouts.check_file(state, layout, _wanted(folder))
        parts = {
            "unet": _from_state("UNet2DConditionModel", _taken(state, UNET), folder / "unet", dtype),
            "vae": _from_state("AutoencoderKL", _taken(state, VAE), folder / "vae", dtype),
            "text_encoder": _text_encoder(_taken(state, TEXT), folder, dtype),
            "tokenizer": _tokenizer(folder, layout.configs()["text_encoder/config.json"]),
            "scheduler": _scheduler(folder),
        }
    return Models(path.name, hashes, parts)


def _taken(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of one part, which leave `state` so that they can leave the memory too."""
    return {key: state.pop(key) for key in list(state) if key.startswith(prefix) and not layouts.is_surplus(key)}


def _wanted(folder: Path) -> dict[str, tuple[int, int]]:
    """By the prefix of each part: how many tensors, how many numbers. Built without memory for weights."""
    import diffusers

    with torch.device("meta"):
        kinds: dict[str, Any] = {UNET: diffusers.UNet2DConditionModel, VAE: diffusers.AutoencoderKL}
        networks: dict[str, Any] = {
            prefix: kind.from_config(kind.load_config(folder / part, local_files_only=True))
            for (prefix, kind), part in zip(kinds.items(), ("unet", "vae"), strict=True)
        }
        networks[TEXT] = _empty_text_encoder(folder)
    return {prefix: layouts.sizes(network.state_dict()) for prefix, network in networks.items()}


def _empty_text_encoder(folder: Path) -> Any:
    import transformers

    return transformers.CLIPTextModel(transformers.CLIPTextConfig.from_pretrained(folder / "text_encoder"))


def _from_state(kind: str, state: dict[str, Tensor], folder: Path, dtype: torch.dtype) -> Any:
    """A network of diffusers from tensors under their original names, which diffusers knows to rename."""
    import diffusers

    build = getattr(diffusers, kind).from_single_file
    try:
        return build(state, config=str(folder), local_files_only=True, dtype=dtype)
    except NotImplementedError as error:  # some tensor of the network got no content
        raise WeightsError(f"has the tensors of {folder.name} under other names; {NEEDED}") from error


def _text_encoder(state: dict[str, Tensor], folder: Path, dtype: torch.dtype) -> Any:
    import transformers

    own = {key.removeprefix(TEXT).removeprefix("text_model."): value for key, value in state.items()}
    with torch.device("meta"):
        needed = _empty_text_encoder(folder).state_dict()
    wrong = [key for key in needed if key not in own or own[key].shape != needed[key].shape]
    if wrong:
        raise WeightsError(f"has no fitting tensor for {wrong[0]} of the text encoder; {NEEDED}")
    config = transformers.CLIPTextConfig.from_pretrained(folder / "text_encoder")
    made: Any = transformers.CLIPTextModel.from_pretrained(None, config=config, state_dict=own, dtype=dtype)
    return made.eval()


def _tokenizer(folder: Path, text: Mapping[str, Any]) -> Any:
    """The tokenizer that fits a text encoder, with its limit of tokens, which folders may lack.

    Without a vocabulary transformers makes one of two tokens and says nothing; without a limit it pads to 1e30.

    Args:
        folder: holds vocab.json, merges.txt and their configuration.
        text: configuration of the text encoder.
    """
    import transformers

    made = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    rows = text.get("vocab_size", layouts.END + 1)
    if not rows / 2 < len(made) <= rows:
        raise WeightsError(f"tokenizer knows {len(made)} tokens, the text encoder {rows}; {_GET_FOLDER}")
    made.model_max_length = min(made.model_max_length, text.get("max_position_embeddings", layouts.CONTEXT))
    return made


def _scheduler(folder: Path) -> Any:
    """The noise schedule of a folder; which sampler goes along it, is chosen by the backend."""
    import diffusers

    kind: Any = diffusers.PNDMScheduler
    return kind.from_pretrained(str(folder), subfolder="scheduler", local_files_only=True)


def _from_folder(path: Path, dtype: torch.dtype) -> Models:
    import diffusers
    import transformers

    for part in _CONFIGS:
        if (path / part).is_dir():
            _check_regular(path / part)
    configs = {part: _config(path / part / name) for part, name in _CONFIGS.items()}
    unet, context = configs["unet"], configs["text_encoder"].get("hidden_size")
    layouts.check_widths(unet.get("in_channels"), unet.get("cross_attention_dim"), context)
    kinds: list[Any] = [diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, transformers.CLIPTextModel]
    files = {part: _weight_file(path / part) for part in _NETWORKS}
    parts: dict[str, Any] = {}
    for (part, file), kind in zip(files.items(), kinds, strict=True):
        with _one_line(part):
            network, info = kind.from_pretrained(
                str(path / part),
                dtype=dtype,
                variant="fp16" if ".fp16." in file.name else None,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
            lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
            if lacking:
                raise WeightsError(f"has no fitting tensor for {lacking[0]}; {_GET_FOLDER}")
            if (broken := damaged(network.state_dict().items())) is not None:
                raise WeightsError(f"{file.name}: {broken} holds NaN or infinite numbers; {_GET_FOLDER}")
        parts[part] = network.eval()
    with _one_line("tokenizer"):
        parts["tokenizer"] = _tokenizer(path, configs["text_encoder"])
    parts["scheduler"] = _scheduler(path)
    hashes = {f"{part}/{file.name}": store.digest_of(file) or "" for part, file in files.items()}
    return Models(path.name, hashes, parts)


def _check_regular(folder: Path) -> None:
    try:
        regular.check(folder)
    except OSError as error:
        raise WeightsError(f"{error.filename}: {error.strerror}; {_GET_FOLDER}") from error


def _config(path: Path) -> dict[str, Any]:
    """One configuration file, as a mapping."""
    part = f"{path.parent.name}/{path.name}"
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise WeightsError(f"has no {part}, so it is no folder of a Stable Diffusion 1.5; {_GET_FOLDER}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{part} is damaged; {_GET_FOLDER}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{part} is no mapping; {_GET_FOLDER}")
    return content


def _weight_file(folder: Path) -> Path:
    """The safetensors file of a network: the plain one where there is one, else the one in half precision."""
    stem = "model" if folder.name == "text_encoder" else "diffusion_pytorch_model"
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            return folder / name
    pickled = ", only pickled weights" if any(folder.glob("*.bin")) else ""
    raise WeightsError(f"{folder.name} has no {stem}.safetensors{pickled}; {_GET_FOLDER}")
