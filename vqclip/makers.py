"""From a config to the backend that it names, its models loaded; a chain where another backend makes the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from vqclip.annealing import Levels
from vqclip.backends.chain import Chain
from vqclip.backends.diffusion import shortened
from vqclip.backends.vqgan import Recipe, VQGANBackend
from vqclip.config import Config
from vqclip.crops import CropSpec
from vqclip.job import Job, WeightsError
from vqclip.makers_diffusion import make_kandinsky, make_stable_diffusion, picture
from vqclip.models import denoiser, vqgan
from vqclip.models.convert import latents_of
from vqclip.models.likeness import sketch
from vqclip.models.weights import STARTER, Weights, load
from vqclip.perceptors import locate, perceptor
from vqclip.place import Made, Place
from vqclip.preflight import check_files

# Learning rates at the first and last step, in `Generator.unit`. What a denoiser takes back at each step has to be
# pulled again, so with one the guides pull harder.
TIDIED_RATES, PLAIN_RATES = (2.0, 0.1), (0.3, 0.01)
IMAGE_SIDE = 256  # px: a picture to resemble is looked at in this size at most; guides see 64 to 448


def make(config: Config, place: Place, also: list[Path]) -> Made:
    """The backend of a config with its models in memory; `also` are files that will be loaded beside them.

    Raises:
        InputError: settings that this backend does not have. WeightsError, ResourceError: see `vqclip.job`.
    """
    if config.start.backend is None:
        return _maker(config, place, also)(None)
    first = replace(config, backend=config.start.backend, start=type(config.start)())
    made = make(first, place, also)
    finish = _maker(config, place, also)
    last = finish(None)
    chain = Chain(made.backend, lambda image: finish(image).backend, last.backend, job_of(first).steps)
    hashes = {f"start {role}": digest for role, digest in made.hashes.items()} | dict(last.hashes)
    readers, eyes = (*made.readers, *last.readers), {f"start {role}": eye for role, eye in made.eyes.items()}
    return Made(chain, hashes, (*made.models, *last.models), readers, eyes | dict(last.eyes))


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


def _maker(config: Config, place: Place, also: list[Path]) -> Callable[[Tensor | None], Made]:
    """Loads the models; what it returns makes the backend for a start picture (1, 3, H, W), or for none."""
    makers = {"vqgan": _vqgan, "kandinsky": make_kandinsky, "stable-diffusion": make_stable_diffusion}
    return makers[config.backend](config, place, also)


def _vqgan(config: Config, place: Place, also: list[Path]) -> Callable[[Tensor | None], Made]:
    paths = [locate(guide.model, "guide", place.note) for guide in config.guides]
    source = locate(config.generator, "generator", place.note)
    cleaner = _denoiser_path(config, source, place)
    check_files([source, *paths, *([cleaner] if cleaner else []), *also], place.device)
    made_by = load(source)
    network = vqgan.build(made_by.state, groups=vqgan.groups_of(made_by.metadata))
    generator = vqgan.VQGAN(
        network, device=place.device, dtype=place.dtype, pull=config.optimizer.pull, **asdict(config.latent)
    )
    generator.grid(config.size)
    cleaned_by = load(cleaner, parts=("",)) if cleaner else None
    tidy = _denoiser(cleaned_by, made_by, place, unit=generator.unit) if cleaned_by else None
    known = all(path == STARTER / "guide-rn.safetensors" for path in paths)
    unit = generator.unit if config.optimizer.unit == "codebook" else 1.0
    recipe = replace(_recipe(config, tidied=tidy is not None, known=known), unit=unit)
    drawing = {"generator": made_by} | ({"denoiser": cleaned_by} if cleaned_by else {})
    hashes, names, guides, eyes = {role: file.sha256 for role, file in drawing.items()}, [], [], {}
    for number, (guide, path) in enumerate(zip(config.guides, paths, strict=True)):
        file = load(path)  # one after the other: each is in memory twice until it is made
        guides.append(perceptor(guide.model, file, place))
        names.append(file.name)
        hashes[f"guide {number}"], eyes[f"guide {number}"] = file.sha256, sketch(file.state)
    weights = [guide.weight for guide in config.guides]
    models = (*(file.name for file in drawing.values()), *names)

    def finish(image: Tensor | None) -> Made:
        started = recipe if image is None else replace(recipe, image=image)
        backend = VQGANBackend(generator, guides, weights, recipe=started, denoiser=tidy)
        return Made(backend, hashes, models, tuple(guide.read for guide in guides), eyes)

    return finish


def _denoiser_path(config: Config, generator: Path, place: Place) -> Path | None:
    wanted = config.denoiser.model
    if wanted == "none" or (wanted == "auto" and generator != STARTER / "vqgan.safetensors"):
        return None
    return locate("starter" if wanted == "auto" else wanted, "denoiser", place.note)


def _denoiser(file: Weights, generator: Weights, place: Place, *, unit: float) -> denoiser.Denoiser:
    try:
        network = denoiser.build(file.state, file.metadata)
    except WeightsError as error:
        raise WeightsError(f"{file.path}: {error}") from error
    if file.trained_with("vqgan") != latents_of(generator.state):
        raise WeightsError(f"{file.path}: was trained with another generator than {generator.path}")
    return denoiser.Denoiser(network, device=place.device, dtype=place.dtype, unit=unit)


def _recipe(config: Config, *, tidied: bool, known: bool) -> Recipe:
    usual, usual_end = TIDIED_RATES if tidied else PLAIN_RATES
    start, rates, weights, tidy = config.start, config.optimizer, config.losses, config.denoiser
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
        levels=Levels(tidy.noise * (tidy.strength if started else 1), tidy.noise_end, tidy.churn),
        **asdict(weights) | {"emphasis": emphasis},
    )
