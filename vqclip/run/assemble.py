"""From a config to loaded models: backend, guides and judge, and what is known of them."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqclip import __version__, images
from vqclip.backends import Backend
from vqclip.backends.chain import Chain
from vqclip.backends.diffusion import Denoising, shortened
from vqclip.backends.kandinsky import files as kandinsky_files
from vqclip.backends.kandinsky import starter as kandinsky_starter
from vqclip.backends.kandinsky.backend import KandinskyBackend
from vqclip.backends.kandinsky.prior import Kandinsky, Memory
from vqclip.backends.stable_diffusion import files as stable_diffusion_files
from vqclip.backends.stable_diffusion.backend import StableDiffusionBackend
from vqclip.backends.vqgan.backend import Recipe, VQGANBackend
from vqclip.config import Config
from vqclip.config.paths import unpinned
from vqclip.generators import denoiser, vqgan
from vqclip.job import InputError, Job, Reading, WeightsError
from vqclip.judge.judge import Judge
from vqclip.judge.rivals import COUNT, rivals
from vqclip.loop.annealing import Levels
from vqclip.loop.crops import CropSpec
from vqclip.perceptors import Perceptor, clip, open_clip
from vqclip.run.device import most_threads, pick_device, pick_dtype, pick_threads
from vqclip.run.exact import hardware
from vqclip.run.inputs import check, digests
from vqclip.run.preflight import check_files
from vqclip.starter.reading import Read, notices
from vqclip.weights import catalogue
from vqclip.weights.convert import latents_of
from vqclip.weights.likeness import alike, sketch, sketch_files
from vqclip.weights.load import STARTER, Weights, checked, find, load


@dataclass(frozen=True)
class Runtime:
    """Where models work: device and precision, what to do with long prompts, who takes warnings."""

    device: torch.device
    dtype: torch.dtype
    too_long: str
    note: Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """A backend, the SHA-256 of its weights by role and the names of its models for people.

    `readers` tell how the models that steer read a text. `sketches` (see `weights.likeness`) are of the CLIPs that look
    at pictures or stand for them, by role.
    """

    backend: Backend
    hashes: Mapping[str, str]
    models: tuple[str, ...]
    readers: tuple[Callable[[str], Reading], ...] = ()
    sketches: Mapping[str, str] = field(default_factory=dict)


PACKAGES = (
    "vqclip", "torch", "openai-clip", "taming-transformers", "kornia", "diffusers", "transformers", "numpy", "pillow",
    "torchvision", "imageio-ffmpeg",
)  # fmt: skip


@dataclass(frozen=True)
class Models:
    """The models of a config, loaded once, and what is known about them."""

    backend: Backend
    judge: Perceptor | None
    judge_name: str
    self_scored: bool
    facts: Mapping[str, Any]
    note: Once
    readers: tuple[Read, ...] = ()

    def notices(self, job: Job) -> list[str]:
        """What the user should know of how the job's texts are read by guides and judge, see `notices`."""
        judges = () if self.judge is None else (self.judge.read,)
        return notices(job, {"guide": self.readers, "judge": judges})

    def judge_of(self, job: Job) -> Judge | None:
        """The judge of a job's prompts, None when the config names no judge."""
        if self.judge is None:
            return None
        return judge_for(job, self.judge, self.judge_name, self_scored=self.self_scored, muted=self.note.muted())


class Once:
    """Says each message once, for guides and judge read the same prompts, and nothing of what is read aside."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note, self._said, self._silent = note, set[str](), False

    def __call__(self, message: str) -> None:
        """Say a message, unless it was said before or is read aside."""
        if not self._silent and message not in self._said:
            self._said.add(message)
            self._note(message)

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Say nothing in this block: what is read are texts that nobody wrote."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False


def judge_for(
    job: Job, model: Perceptor, name: str, *, self_scored: bool = False,
    muted: AbstractContextManager[None] | None = None,
) -> Judge:  # fmt: skip
    """A judge of a job's prompts that looks with `model`; includes that have no weight are not asked for.

    `muted` is entered while texts are read that nobody wrote.
    """
    include = [prompt.text for prompt in job.include if prompt.weight > 0] or [prompt.text for prompt in job.include]
    shares = [(COUNT + place) // len(include) for place in range(len(include))]  # COUNT in all
    return Judge(
        model,
        name,
        include,
        rivals=[
            rivals(model.read(text).text, count=max(1, share)) for text, share in zip(include, shares, strict=True)
        ],
        exclude=[prompt.text for prompt in job.exclude],
        self_scored=self_scored,
        muted=muted,
    )


def open_judge(config: Config, note: Callable[[str], None]) -> tuple[Callable[[Job], Judge | None], str, str]:
    """Load a config's judge alone: what makes a judge for a job, its file's SHA-256 and its tensors' sketch.

    Raises:
        InputError: no judge, or a device that is not here. WeightsError: weights that cannot be had or used.
        ResourceError: no room for them.
    """
    if config.judge is None:
        raise InputError("judge: none; a comparison needs one, for example judge=starter")
    torch.set_num_threads(pick_threads(config))  # scores are the same whichever variant was made before
    device = pick_device(config.device)
    file = load(locate(config.judge, "judge", note))
    note = note if isinstance(note, Once) else Once(note)
    runtime = Runtime(device, pick_dtype(config.precision, device), config.too_long, note)
    model = perceptor(config.judge, file, runtime)

    def judge_of(job: Job) -> Judge:
        judge = judge_for(job, model, file.name, muted=note.muted())
        for message in judge.notes:
            note(message)
        return judge

    return judge_of, file.sha256, sketch(file.state)


def load_models(config: Config, note: Callable[[str], None] = warnings.warn) -> Models:
    """Load the models that a config names and put them on its device; `note` takes warnings, each once.

    What can be seen before is refused before, see `inputs.check`.

    Raises:
        InputError: a device or picture that is not here, settings at odds. WeightsError: weights that cannot be had or
        used. ResourceError: no room for them.
    """
    note = note if isinstance(note, Once) else Once(note)
    check(config, note)
    torch.set_num_threads(pick_threads(config))
    device = pick_device(config.device)
    dtype = pick_dtype(config.precision, device)

    runtime = Runtime(device, dtype, config.too_long, note)
    judge_path = locate(config.judge, "judge", note) if config.judge else None
    made = make(config, runtime, [judge_path] if judge_path else [])
    judge_file = load(judge_path) if judge_path else None
    return Models(
        made.backend,
        perceptor(str(config.judge), judge_file, runtime) if judge_file else None,
        judge_file.name if judge_file else "",
        judge_file is not None and _steered(judge_file, made),
        {
            "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
            "weights": {**made.hashes} | ({"judge": judge_file.sha256} if judge_file else {}),
            "eyes": {**made.sketches} | ({"judge": sketch(judge_file.state)} if judge_file else {}),
            "models": [*made.models, *([judge_file.name] if judge_file else [])],
            "device": str(device),
            "precision": str(dtype).removeprefix("torch."),
            "threads": most_threads(config),
            "files": digests(config),
            **hardware(device),
        },
        note,
        made.readers,
    )


def _steered(judge: Weights, made: Made) -> bool:
    """Whether a judge is one of the CLIPs behind a backend, as this very file or saved again."""
    own = sketch(judge.state)
    return judge.sha256 in made.hashes.values() or any(alike(own, each) for each in made.sketches.values())


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # vqclip itself, run from a checkout that is not installed
        return f"{__version__}+checkout"


# Learning rates at the first and last step, in `Generator.unit`. What a denoiser takes back at each step has to be
# pulled again, so with one the guides pull harder.
DENOISED_RATES, PLAIN_RATES = (2.0, 0.1), (0.3, 0.01)
IMAGE_SIDE = 256  # px: a picture to resemble is looked at in this size at most; guides see 64 to 448


def make(config: Config, runtime: Runtime, also: list[Path]) -> Made:
    """The backend of a config with its models in memory; `also` are files that will be loaded beside them.

    Raises:
        InputError: settings that this backend does not have. WeightsError, ResourceError: see `vqclip.job`.
    """
    if config.start.backend is None:
        return _maker(config, runtime, also)(None)
    first = replace(config, backend=config.start.backend, start=type(config.start)())
    made = make(first, runtime, also)
    finish = _maker(config, runtime, also)
    last = finish(None)
    chain = Chain(made.backend, lambda image: finish(image).backend, last.backend, job_of(first).steps)
    hashes = {f"start {role}": digest for role, digest in made.hashes.items()} | dict(last.hashes)
    readers, sketches = (*made.readers, *last.readers), {f"start {role}": each for role, each in made.sketches.items()}
    return Made(chain, hashes, (*made.models, *last.models), readers, sketches | dict(last.sketches))


def job_of(config: Config) -> Job:
    """The job of a config with one picture; its steps are the updates that will really run."""
    steps = config.steps
    if config.backend != "vqgan":
        section = config.kandinsky if config.backend == "kandinsky" else config.stable_diffusion
        whole = config.start.kind not in ("image", "backend") or (
            config.backend == "kandinsky" and config.kandinsky.mask is not None
        )
        steps = section.steps if whole else max(1, shortened(section.steps, section.strength))
    return Job(config.include, config.exclude, config.extras, config.size, steps, config.seed)


def _maker(config: Config, runtime: Runtime, also: list[Path]) -> Callable[[Tensor | None], Made]:
    """Loads the models; what it returns makes the backend for a start picture (1, 3, H, W), or for none."""
    makers = {"vqgan": _vqgan, "kandinsky": make_kandinsky, "stable-diffusion": make_stable_diffusion}
    return makers[config.backend](config, runtime, also)


def _vqgan(config: Config, runtime: Runtime, also: list[Path]) -> Callable[[Tensor | None], Made]:
    paths = [locate(guide.model, "guide", runtime.note) for guide in config.guides]
    source = locate(config.generator, "generator", runtime.note)
    cleaner = _denoiser_path(config, source, runtime)
    check_files([source, *paths, *([cleaner] if cleaner else []), *also], runtime.device)
    made_by = load(source)
    network = vqgan.build(made_by.state, groups=vqgan.groups_of(made_by.metadata))
    generator = vqgan.VQGAN(
        network, device=runtime.device, dtype=runtime.dtype, pull=config.optimizer.pull, **asdict(config.latent)
    )
    generator.grid(config.size)
    cleaned_by = load(cleaner, parts=("",)) if cleaner else None
    denoise = _denoiser(cleaned_by, made_by, runtime, unit=generator.unit) if cleaned_by else None
    known = all(path == STARTER / "guide-rn.safetensors" for path in paths)
    unit = generator.unit if config.optimizer.unit == "codebook" else 1.0
    recipe = _recipe(config, denoised=denoise is not None, known=known, unit=unit)
    drawing = {"generator": made_by} | ({"denoiser": cleaned_by} if cleaned_by else {})
    hashes, names, guides, sketches = {role: file.sha256 for role, file in drawing.items()}, [], [], {}
    for number, (guide, path) in enumerate(zip(config.guides, paths, strict=True)):
        file = load(path)  # one after the other: each is in memory twice until it is made
        guides.append(perceptor(guide.model, file, runtime))
        names.append(file.name)
        hashes[f"guide {number}"], sketches[f"guide {number}"] = file.sha256, sketch(file.state)
    weights, threads = [guide.weight for guide in config.guides], most_threads(config)
    models = (*(file.name for file in drawing.values()), *names)

    def finish(image: Tensor | None) -> Made:
        started = recipe if image is None else replace(recipe, image=image)
        backend = VQGANBackend(generator, guides, weights, recipe=started, denoiser=denoise, threads=threads)
        return Made(backend, hashes, models, tuple(guide.read for guide in guides), sketches)

    return finish


def _denoiser_path(config: Config, generator: Path, runtime: Runtime) -> Path | None:
    wanted = config.denoiser.model
    if wanted == "none" or (wanted == "auto" and generator != STARTER / "vqgan.safetensors"):
        return None
    return locate("starter" if wanted == "auto" else wanted, "denoiser", runtime.note)


def _denoiser(file: Weights, generator: Weights, runtime: Runtime, *, unit: float) -> denoiser.Denoiser:
    try:
        network = denoiser.build(file.state, file.metadata)
    except WeightsError as error:
        raise WeightsError(f"{file.path}: {error}") from error
    if file.trained_with("vqgan") != latents_of(generator.state):
        raise WeightsError(f"{file.path}: was trained with another generator than {generator.path}")
    return denoiser.Denoiser(network, device=runtime.device, dtype=runtime.dtype, unit=unit)


def _recipe(config: Config, *, denoised: bool, known: bool, unit: float) -> Recipe:
    usual, usual_end = DENOISED_RATES if denoised else PLAIN_RATES
    start, rates, weights, denoise = config.start, config.optimizer, config.losses, config.denoiser
    started = start.kind in ("image", "backend")
    emphasis = float(known) if weights.emphasis is None else weights.emphasis
    shown = tuple((picture(each.image, (IMAGE_SIDE, IMAGE_SIDE)), each.weight) for each in config.images)
    return Recipe(
        crops=CropSpec(**asdict(config.crops)),
        start="image" if start.kind == "backend" else start.kind,
        cells=start.cells,
        contrast=start.contrast,
        image=picture(start.image, config.size) if start.image else None,
        images=shown,
        optimizer=rates.name,
        rate=usual if rates.lr is None else rates.lr,
        rate_end=usual_end if rates.lr_end is None else rates.lr_end,
        weight_decay=rates.weight_decay,
        average=config.average,
        coarse=config.coarse,
        tries=config.tries,
        tries_share=config.tries_share,
        batch=config.batch,
        unit=unit,
        levels=Levels(denoise.noise * (denoise.strength if started else 1), denoise.noise_end, denoise.churn),
        **asdict(weights) | {"emphasis": emphasis},
    )


SIDE = 512  # px: a picture to blend in is cut to this square; image encoders see at most 378


def make_kandinsky(config: Config, runtime: Runtime, also: list[Path]) -> Callable[[Tensor | None], Made]:
    """Finds prior and decoder; what it returns makes the backend for a start picture (1, 3, H, W), or for none.

    Raises:
        InputError: a mask without an inpainting decoder, or settings at odds. WeightsError: a half that cannot be had
        or used. ResourceError: no room for it.
    """
    check_files(also, runtime.device)
    section = config.kandinsky
    if section.mask is not None and section.inpaint is None:
        raise InputError("kandinsky.inpaint: a mask needs the inpainting decoder; give its folder or hub name")
    sources = {"prior": section.prior, "decoder": section.decoder} if section.mask is None else {
        "prior": section.prior, "inpaint": str(section.inpaint)
    }  # fmt: skip
    opened = {part: _open_part(source, part, runtime) for part, source in sources.items()}
    (open_prior, prior_name, prior_hashes, read, sketches), (open_decoder, name, hashes, *_) = opened.values()
    settings = Kandinsky(
        prior_steps=section.prior_steps,
        prior_guidance=section.prior_guidance,
        prior_seed=section.prior_seed,
        extras=config.losses.extras,
        images=tuple((picture(each.image, (SIDE, SIDE)), each.weight) for each in config.images),
        offload=section.offload,
        too_long=config.too_long,
    )
    memory = Memory()

    def finish(image: Tensor | None) -> Made:
        denoising = _denoising(config, section, image)
        backend = KandinskyBackend(
            open_prior,
            open_decoder,
            settings=settings,
            denoising=denoising,
            device=runtime.device,
            dtype=runtime.dtype,
            prior_name=prior_name,
            memory=memory,
        )
        return Made(backend, prior_hashes | hashes, (prior_name, name), (read,) if read else (), sketches)

    return finish


def _open_part(
    source: str, part: str, runtime: Runtime
) -> tuple[Callable[[], Any], str, dict[str, str], Read | None, dict[str, str]]:
    """How to open the prior or the decoder (kept once opened), its name; SHA-256, reader of starter files; sketches."""
    if source == "starter":
        starter = kandinsky_starter.find_prior() if part == "prior" else kandinsky_starter.find_decoder()
        known = starter.name, dict(starter.hashes), starter.read, dict(starter.sketches)
        return cache(lambda: starter.open(dtype=runtime.dtype)), *known
    found = kandinsky_files.find(source, part, runtime.note)  # type: ignore[arg-type]  # one of its three parts
    check_files(kandinsky_files.weight_files(found), runtime.device, share=runtime.dtype.itemsize / 4)
    opener = kandinsky_files.open_prior if part == "prior" else kandinsky_files.open_decoder
    sketches = {"image encoder": sketch_files(found.folder / f"{found.prefix}image_encoder")} if part == "prior" else {}
    return cache(lambda: opener(found, dtype=runtime.dtype)), found.name, {}, None, sketches


def make_stable_diffusion(config: Config, runtime: Runtime, also: list[Path]) -> Callable[[Tensor | None], Made]:
    """Loads the networks; what it returns makes the backend for a start picture (1, 3, H, W), or for none.

    Raises:
        InputError: no model named, or pictures to resemble. WeightsError: missing or unusable. ResourceError: no room.
    """
    section = config.stable_diffusion
    if section.model is None:
        raise InputError("stable_diffusion.model: a .safetensors or .ckpt file of Stable Diffusion 1.5 is needed")
    if config.images:
        raise InputError("images: Stable Diffusion 1.5 takes words only; kandinsky and vqgan take pictures too")
    plain, pin = unpinned(section.model)
    source = checked(Path(plain).expanduser(), pin, role="stable_diffusion.model")
    check_files([*([source] if source.is_file() else []), *also], runtime.device)
    models = stable_diffusion_files.open(source, dtype=runtime.dtype)

    def finish(image: Tensor | None) -> Made:
        denoising = _denoising(config, section, image)
        backend = StableDiffusionBackend(
            models,
            device=runtime.device,
            denoising=denoising,
            offload=section.offload,
            too_long=config.too_long,
        )
        return Made(backend, models.hashes, (models.name,))

    return finish


def picture(path: str, size: tuple[int, int]) -> Tensor:
    """A picture file as (1, 3, H, W) in [0, 1], filling `size` = (width, height); InputError as `images.read`."""
    return images.from_pil(images.fit(images.read(Path(path)), size))


def _denoising(config: Config, section: Any, image: Tensor | None) -> Denoising:
    """What both backends have. A chain's start picture is grey until another backend has made it."""
    if image is None and config.start.kind == "backend":
        image = torch.full((1, 3, config.size[1], config.size[0]), 0.5)
    if config.start.image:
        image = picture(config.start.image, config.size)
    mask = getattr(section, "mask", None)
    return Denoising(
        steps=section.steps,
        guidance=section.guidance,
        scheduler=section.scheduler,
        strength=section.strength,
        image=image,
        mask=picture(mask, config.size)[:, :1] if mask else None,
    )


def perceptor(name: str, weights: Weights, runtime: Runtime) -> Perceptor:
    """The CLIP of a loaded file, of openai's family or open_clip's; `name` is the config's value.

    Raises:
        WeightsError: a file of another kind. InputError: open_clip's package or tokenizer is not here.
    """
    named = open_clip_name(name)
    if named is not None:
        net = open_clip.build(weights.state, model=named.model, tag=named.tag)
        return open_clip.OpenClipPerceptor(
            net,
            model=named.model,
            device=runtime.device,
            dtype=runtime.dtype,
            too_long=runtime.too_long,
            notice=runtime.note,
        )
    return clip.ClipPerceptor(
        clip.build(weights.state),
        device=runtime.device,
        dtype=runtime.dtype,
        token_ids=weights.state.get("token_ids"),
        too_long=runtime.too_long,
        notice=runtime.note,
    )


def locate(name: str, role: str, note: Callable[[str], None]) -> Path:
    """The weight file that a config value names; what has to be fetched for it is noted at every tenth.

    Raises:
        InputError, WeightsError, ResourceError: as `weights.load.find`.
    """

    def fetched(done: int, total: int | None) -> None:
        if total:
            note(f"{name}: {10 * (10 * done // total)} % of {total / 1e6:.0f} MB fetched")

    named = open_clip_name(name)
    return find(named.path if named is not None and named.path else name, role=role, on_progress=fetched)


def open_clip_name(name: str) -> open_clip.Named | None:
    """Architecture and tag when the value names an open_clip model: by prefix, or by its catalogue name."""
    if name.startswith(open_clip.PREFIX):
        return open_clip.parse(name)
    if name.startswith("starter") or Path(unpinned(name)[0]).is_file():
        return None
    try:
        entry = catalogue.entry(name)
    except InputError:  # a path that does not exist, or a typo: `find` says so
        return None
    return open_clip.Named(entry.extra["model"], entry.extra["tag"], "") if entry.kind == "open_clip" else None
