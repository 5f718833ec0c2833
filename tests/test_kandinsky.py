"""The Kandinsky backend draws what diffusers' own pipelines draw, past the traps that these still have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers import KandinskyV22Img2ImgPipeline, KandinskyV22PriorEmb2EmbPipeline
from tiny_kandinsky import silent, tiny_decoder, tiny_inpainter, tiny_prior, tiny_unet

from vqclip import images
from vqclip.backends.diffusion import Denoising
from vqclip.backends.kandinsky import backend as kandinsky
from vqclip.backends.kandinsky.backend import KandinskyBackend, _Placement, _Worker
from vqclip.backends.kandinsky.prior import Kandinsky, Memory, check_texts, question
from vqclip.job import InputError, Job, Prompt, Step, WeightsError

CPU = torch.device("cpu")
JOB = Job((Prompt("a red apple"),), size=(128, 64), steps=2, seed=3)
IMAGE = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(1, 1, 64, 128)
MASK[..., 16:40, 48:80] = 1


@pytest.fixture(scope="module")
def prior() -> Any:
    return silent(tiny_prior())


@pytest.fixture(scope="module")
def decoder() -> Any:
    return silent(tiny_decoder())


@pytest.fixture(scope="module")
def inpainter() -> Any:
    return silent(tiny_inpainter())


def backend(prior: Any, decoder: Any, denoising: Denoising | None = None, **more: Any) -> KandinskyBackend:
    """Two steps of text-to-image and three of the prior, if nothing else is said."""
    given: dict[str, Any] = {"settings": Kandinsky(prior_steps=3), "device": CPU, "dtype": torch.float32}
    given["denoising"] = denoising or Denoising(steps=2)
    return KandinskyBackend(lambda: prior, lambda: decoder, **(given | more))


def drawn(made: KandinskyBackend, job: Job = JOB) -> tuple[torch.Tensor, list[Step]]:
    seen: list[Step] = []
    made.check(job)
    return made.generate(job, seen.append).image, seen


def asked(prior: Any, job: Job = JOB, **more: Any) -> dict[str, torch.Tensor]:
    """The embeddings of a job by a direct call."""
    out = prior("a red apple", num_inference_steps=3, guidance_scale=4.0, generator=job.rng("prior"), **more)
    return {"image_embeds": out.image_embeds, "negative_image_embeds": out.negative_image_embeds}


def directly(pipe: Any, pair: dict[str, torch.Tensor], job: Job = JOB, **more: Any) -> torch.Tensor:
    """A picture (3, H, W) in [0, 1] by a direct call of a pipeline."""
    given = {"width": job.size[0], "height": job.size[1], "num_inference_steps": 2} | more
    out = silent(pipe)(**pair, generator=job.rng("decoder"), output_type="np", **given).images[0]
    return torch.from_numpy(out).permute(2, 0, 1)


@pytest.mark.parametrize("name", kandinsky.SCHEDULERS)
def test_text_to_image_is_the_pipelines_own(prior: Any, decoder: Any, name: str) -> None:
    kind = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "dpm++": "DPMSolverMultistepScheduler"}[name]
    plan = getattr(diffusers, kind).from_config(decoder.scheduler.config)
    pipe = diffusers.KandinskyV22Pipeline(unet=decoder.unet, movq=decoder.movq, scheduler=plan)
    image, _ = drawn(backend(prior, decoder, Denoising(steps=2, scheduler=name)))
    assert torch.equal(image, directly(pipe, asked(prior)))


@pytest.mark.parametrize("guidance", [1.0, 0.5, 7.0])
def test_guidance_and_exclude_are_the_pipelines_own(prior: Any, decoder: Any, guidance: float) -> None:
    """Bug 6: at guidance <= 1 the pipelines neither cast nor move the embeddings."""
    job = Job(JOB.include, (Prompt("grass"), Prompt("sky", weight=0.0), Prompt("text")), size=(64, 64), seed=3)
    image, _ = drawn(backend(prior, decoder, Denoising(steps=2, guidance=guidance)), job)
    pair = asked(prior, job, negative_prompt="grass, text")
    assert torch.equal(image, directly(decoder, pair, job, guidance_scale=guidance))


def test_image_to_image_is_the_pipelines_own(prior: Any, decoder: Any) -> None:
    image, seen = drawn(backend(prior, decoder, Denoising(steps=4, strength=0.5, image=IMAGE)))
    pipe = KandinskyV22Img2ImgPipeline(**decoder.components)
    turned = {"width": 64, "height": 128, "num_inference_steps": 4}  # see the next test
    assert torch.equal(image, directly(pipe, asked(prior), image=IMAGE, strength=0.5, **turned))
    assert [step.index for step in seen] == [0, 1, 2]
    assert torch.equal(seen[0].image, IMAGE[0])


def test_image_to_image_still_swaps_width_and_height(prior: Any, decoder: Any) -> None:
    """Bug 1. When this fails, diffusers has mended it: the image_processor of `_assemble` can go."""
    pipe = KandinskyV22Img2ImgPipeline(**decoder.components)
    assert directly(pipe, asked(prior), image=IMAGE, strength=0.5).shape == (3, 128, 64)
    image, _ = drawn(backend(prior, decoder, Denoising(steps=2, strength=0.5, image=IMAGE)))
    assert image.shape == (3, 64, 128)


def test_inpainting_is_the_pipelines_own_inside_and_the_picture_outside(prior: Any, inpainter: Any) -> None:
    """Bug 8: the mask is written to, and the kept part has been through encoder and decoder."""
    given = MASK.clone()
    image, seen = drawn(backend(prior, inpainter, Denoising(steps=2, image=IMAGE, mask=given)))
    assert torch.equal(given, MASK)
    direct = directly(inpainter, asked(prior), image=IMAGE * 2 - 1, mask_image=MASK.clone())
    hole = MASK[0, 0] > 0.5
    assert torch.equal(image[:, hole], direct[:, hole])
    far = torch.ones(64, 128, dtype=torch.bool)
    far[8:48, 40:88] = False
    assert torch.equal(image[:, far], IMAGE[0][:, far])
    assert not torch.equal(direct[:, far], IMAGE[0][:, far])
    assert all(torch.equal(step.image[:, far], IMAGE[0][:, far]) for step in seen)


def test_each_picture_keeps_its_own_surroundings(prior: Any, inpainter: Any) -> None:
    """Bug 7: in a batch all would keep those of the first."""
    for start in (IMAGE, 1 - IMAGE):
        image, _ = drawn(backend(prior, inpainter, Denoising(steps=1, image=start, mask=MASK)))
        assert torch.equal(image[:, :8], start[0][:, :8])


def test_a_blend_is_the_priors_own(prior: Any, decoder: Any) -> None:
    """Bug 9: of the prior pipelines only the plain one can blend texts."""
    picture = torch.rand(1, 3, 20, 30)
    job = Job(
        (Prompt("a red apple", 2.0), Prompt("nothing", 0.0)), (Prompt("grass"),), (Prompt("a bowl"),), size=(64, 64)
    )
    settings = Kandinsky(prior_steps=3, prior_guidance=2.0, extras=0.5, images=((picture, 1.5),))
    image, _ = drawn(backend(prior, decoder, settings=settings), job)
    out = prior.interpolate(
        ["a red apple", "a bowl", images.to_pil(picture)], [0.5, 0.125, 0.375], num_inference_steps=3,
        guidance_scale=2.0, negative_prompt="grass", generator=job.rng("prior"),
    )  # fmt: skip
    pair = {"image_embeds": out.image_embeds, "negative_image_embeds": out.negative_image_embeds}
    assert torch.equal(image, directly(decoder, pair, job))
    other = silent(KandinskyV22PriorEmb2EmbPipeline(**prior.components))
    with pytest.raises(TypeError):
        other.interpolate(["a red apple", "a bowl"], [0.5, 0.5], num_inference_steps=3)


def test_weights_of_a_blend_sum_to_one_and_only_what_counts_is_asked() -> None:
    job = Job((Prompt("a", 3.0), Prompt("b", 1.0)), extras=(Prompt("c", 4.0),))
    parts = question(job, Kandinsky(extras=0.25)).parts
    assert [(text, weight) for text, weight in parts] == [("a", 0.6), ("b", 0.2), ("c", 0.2)]
    assert question(job, Kandinsky(extras=0.0)).parts == (("a", 0.75), ("b", 0.25))
    alone = question(Job((Prompt("a", 0.01),)), Kandinsky())
    assert alone.parts == (("a", 1.0),)
    assert alone.exclude is None
    with pytest.raises(InputError, match="weight 0"):
        question(Job((Prompt("a", 0.0),)), Kandinsky())


@pytest.mark.parametrize("size", [(100, 70), (20, 10), (65, 64), (64, 128)])
@pytest.mark.parametrize("mode", ["text-to-image", "image-to-image", "inpainting"])
def test_every_size_comes_out_as_asked(prior: Any, decoder: Any, inpainter: Any, size: Any, mode: str) -> None:
    """Bugs 2, 3 and 14: sizes that do not divide, and ranges that differ between the pipelines."""
    start, hole = torch.rand(1, 3, 50, 90), torch.ones(1, 1, 50, 90)
    given: dict[str, Any] = {"text-to-image": {}, "image-to-image": {"image": start}}.get(
        mode, {"image": start, "mask": hole}
    )
    made = backend(prior, inpainter if mode == "inpainting" else decoder, Denoising(steps=1, strength=1.0, **given))
    image, seen = drawn(made, Job(JOB.include, size=size))
    for each in (image, *(step.image for step in seen)):
        assert each.shape == (3, size[1], size[0])
        assert each.dtype == torch.float32
        assert each.min() >= 0 and each.max() <= 1


def test_frames_lead_from_the_first_guess_to_the_very_result(prior: Any, decoder: Any) -> None:
    job = Job(JOB.include, size=(64, 64), seed=3)
    image, seen = drawn(backend(prior, decoder, Denoising(steps=4)), job)
    assert [(step.index, step.total) for step in seen] == [(index, 4) for index in range(5)]
    assert torch.equal(seen[-1].image, image)
    assert not torch.equal(seen[0].image, image)
    assert all(step.image.std() > 0.001 for step in seen)  # no blank
    distances = [float((step.image - image).abs().mean()) for step in seen]
    assert distances[3] < distances[0]
    shown: list[torch.Tensor] = []
    one = backend(prior, decoder, Denoising(steps=4)).generate(
        job, lambda step: shown.append(step.image) if step.index == 2 else None
    )
    assert torch.equal(one.image, image)
    assert torch.equal(shown[0], seen[2].image)  # looked at later it is the same


def test_embeddings_are_remembered(prior: Any, decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    embed = kandinsky.embed
    monkeypatch.setattr(
        kandinsky, "embed", lambda pipe, question, device: (calls.append(question), embed(pipe, question, device))[1]
    )
    made, memory = backend(prior, decoder), Memory(size=2)
    first, again = (made.generate(JOB, lambda _: None) for _ in range(2))
    assert torch.equal(first.image, again.image)
    assert (first.facts["prior"]["cached"], again.facts["prior"]["cached"]) == (False, True)
    assert len(calls) == 1
    shared: list[KandinskyBackend] = [
        backend(prior, decoder, Denoising(steps=1), memory=memory, prior_name=name) for name in ("a", "a", "b")
    ]
    told = [each.generate(JOB, lambda _: None).facts["prior"]["cached"] for each in shared]
    assert told == [False, True, False]  # another prior answers otherwise
    other = Job((Prompt("a green pear"),), size=JOB.size, seed=3)
    assert not shared[0].generate(other, lambda _: None).facts["prior"]["cached"]
    assert not shared[0].generate(JOB, lambda _: None).facts["prior"]["cached"]  # two fit, it was the oldest
    with pytest.raises(ValueError, match="prior_name"):
        backend(prior, decoder, memory=memory)


@pytest.mark.parametrize(
    "change",
    [{"prior_steps": 4}, {"prior_guidance": 3.0}, {"prior_seed": 8}, {"extras": 0.4}, {"images": ((IMAGE, 1.0),)}],
)
def test_all_that_decides_an_embedding_is_in_its_key(change: dict[str, Any]) -> None:
    job = Job(JOB.include, extras=(Prompt("a bowl"),), seed=3)
    before, after = question(job, Kandinsky()), question(job, Kandinsky(**change))
    assert before.key("p") == question(job, Kandinsky()).key("p")
    assert before.key("p") != after.key("p")
    assert before.key("p") != before.key("q")
    assert before.key("p") != question(Job(job.include, (Prompt("x"),), job.extras, seed=3), Kandinsky()).key("p")
    assert before.key("p") != question(Job(job.include, extras=job.extras, seed=4), Kandinsky()).key("p")


def test_a_prior_seed_holds_the_embedding_while_the_picture_changes(prior: Any, decoder: Any) -> None:
    settings = Kandinsky(prior_steps=3, prior_seed=0)
    made = backend(prior, decoder, Denoising(steps=1), settings=settings)
    one, two = (made.generate(Job(JOB.include, size=(64, 64), seed=seed), lambda _: None) for seed in (1, 2))
    assert two.facts["prior"] == one.facts["prior"] | {"cached": True}
    assert one.facts["prior"]["seed"] == 0
    assert one.facts["decoder"]["seed"] != two.facts["decoder"]["seed"]
    assert not torch.equal(one.image, two.image)


def test_facts_say_how_the_picture_was_made(prior: Any, decoder: Any) -> None:
    job = Job((Prompt("a red apple", stop=0.5),), (Prompt("grass", 0.3),), size=(100, 70), seed=3)
    result = backend(prior, decoder, Denoising(steps=5, strength=0.45, image=IMAGE, scheduler="ddim")).generate(
        job, lambda _: None
    )
    assert result.steps == 2
    assert result.facts["decoder"] == {
        "seed": job.rng("decoder").initial_seed(), "steps": 5, "updates": 2, "mode": "image-to-image",
        "scheduler": "ddim", "guidance": 4.0, "strength": 0.45, "size": [100, 70], "canvas": [128, 128],
    }  # fmt: skip
    assert result.facts["prior"] == {
        "seed": job.rng("prior").initial_seed(), "steps": 3, "guidance": 4.0, "blend": [["a red apple", 1.0]],
        "exclude": "grass", "cached": False,
    }  # fmt: skip
    assert len(result.facts["ignored"]) == 2
    assert "grass" in result.facts["ignored"][0] and "stop" in result.facts["ignored"][1]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_interrupt_passes_through_and_leaves_the_backend_usable(prior: Any, decoder: Any, at: int) -> None:
    made = backend(prior, decoder)

    def stop(step: Step) -> None:
        if step.index == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.generate(JOB, stop)
    assert torch.equal(drawn(made)[0], drawn(backend(prior, decoder))[0])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"prior_steps": 1}, "prior_steps: 1"),
        ({"prior_steps": 1001}, "prior_steps: 1001"),
        ({"prior_guidance": -1.0}, "prior_guidance: -1"),
        ({"extras": float("inf")}, "extras: inf"),
        ({"prior_seed": -1}, "prior_seed: -1"),
        ({"images": ((IMAGE[0], 1.0),)}, "a picture to blend in is"),
        ({"images": ((IMAGE, -1.0),)}, "weight of a picture"),
        ({"idle": "sleep"}, "idle: 'sleep'; allowed: auto"),
        ({"too_long": "cut"}, "too_long: 'cut'; allowed: error, truncate"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Kandinsky(**wrong)


def test_one_step_of_the_prior_still_divides_by_zero(prior: Any) -> None:
    """Bug 5, the reason for prior_steps >= 2; one step of the decoder is fine, as the sizes show."""
    with pytest.raises(ZeroDivisionError):
        prior("a red apple", num_inference_steps=1)


def test_jobs_that_cannot_be_drawn_are_refused_before_any_work(prior: Any, decoder: Any) -> None:
    def opened() -> Any:
        raise AssertionError("the decoder is not needed to refuse")

    long = Job((Prompt("a" * 80),))
    for refused, job, told in (
        (backend(prior, opened, Denoising(steps=3, strength=0.3, image=IMAGE)), JOB, "less than one update"),
        (backend(prior, opened), long, "has 80 tokens; Kandinsky reads 75"),
        (backend(prior, opened), Job(JOB.include, (Prompt("b" * 50), Prompt("c" * 50))), "Kandinsky reads 75"),
        (backend(prior, opened), Job((Prompt("a", 0.0),)), "weight 0"),
        (backend(prior, opened, Denoising(steps=2, image=IMAGE, mask=_dot())), Job(JOB.include, size=(8, 8)), "mask"),
    ):
        with pytest.raises(InputError, match=told) as caught:
            refused.check(job)
        assert "\n" not in str(caught.value)
    backend(prior, decoder, settings=Kandinsky(too_long="truncate")).check(long)
    check_texts(["a" * 75], prior)
    for wrong, told in (
        ({"denoising": Denoising(scheduler="euler")}, "Kandinsky allows ddpm, ddim, dpm"),
        ({"settings": Kandinsky(offload=True)}, "offload"),
    ):
        with pytest.raises(InputError, match=told):
            backend(prior, decoder, **wrong)


def _dot() -> torch.Tensor:
    mask = torch.zeros(1, 1, 64, 128)
    mask[..., 0, 0] = 1
    return mask


def test_a_unet_of_another_task_is_refused(prior: Any, decoder: Any, inpainter: Any) -> None:
    """Bug 15: the pipelines end in errors of convolutions."""
    for wrong, denoising, told in (
        (inpainter, Denoising(steps=2), "9 input channels; pictures without a mask needs 4"),
        (decoder, Denoising(steps=2, image=IMAGE, mask=MASK), "4 input channels; repainting under a mask needs 9"),
    ):
        with pytest.raises(WeightsError, match=told):
            drawn(backend(prior, wrong, denoising))
    narrow = diffusers.KandinskyV22Pipeline(tiny_unet(out=4), decoder.scheduler, decoder.movq)
    with pytest.raises(WeightsError, match="4 output channels"):
        drawn(backend(prior, narrow))


def test_mixed_precisions_become_one() -> None:
    """Bugs 11, 12 and 13: the image encoder of the hub is float16, and unet and movq must agree."""
    mixed, half = tiny_prior(), tiny_decoder()
    mixed.image_encoder.half()
    half.unet.to(torch.bfloat16)
    with pytest.raises(RuntimeError):
        directly(half, asked(silent(mixed)))
    image, _ = drawn(backend(mixed, half))
    assert half.unet.dtype == half.movq.dtype == mixed.image_encoder.dtype == torch.float32
    assert image.dtype == torch.float32
    low = backend(tiny_prior(), half, dtype=torch.bfloat16)
    assert (drawn(low)[0] - image).abs().mean() < 0.2
    assert half.unet.dtype == half.movq.dtype == torch.bfloat16


def test_fast_attention_stays(prior: Any, decoder: Any) -> None:
    """Bug 16: what switches slicing off leaves the slow processor behind; nothing here touches it."""
    drawn(backend(prior, decoder))
    assert {type(each).__name__ for each in decoder.unet.attn_processors.values()} == {"AttnAddedKVProcessor2_0"}


@pytest.mark.parametrize(("idle", "opened"), [("auto", 1), ("keep", 1), ("park", 1), ("drop", 2)])
def test_the_half_that_rests_makes_room(idle: str, opened: int) -> None:
    counts = {"prior": 0, "decoder": 0}

    def counted(name: str, build: Callable[[], Any]) -> Callable[[], Any]:
        def build_one() -> Any:
            counts[name] += 1
            return build()

        return build_one

    made = KandinskyBackend(
        counted("prior", tiny_prior), counted("decoder", tiny_decoder), settings=Kandinsky(prior_steps=3, idle=idle),
        denoising=Denoising(steps=1), device=CPU, dtype=torch.float32,
    )  # fmt: skip
    jobs = [Job((Prompt(text),), size=(64, 64), seed=3) for text in ("a red apple", "a pear")]
    pictures = [drawn(made, job)[0] for job in jobs]
    assert counts == {"prior": opened, "decoder": opened}
    assert not torch.equal(*pictures)
    for job, picture in zip(jobs, pictures, strict=True):  # remembered: no prior is opened
        assert torch.equal(drawn(made, job)[0], picture)
    assert counts["prior"] == opened


def test_backends_that_share_networks_do_not_mind_each_other() -> None:
    """One may have parked or cast what the other is about to use."""
    shared = tiny_decoder()
    high, low = (
        backend(tiny_prior(), shared, Denoising(steps=1), dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    before = drawn(high)[0]
    drawn(low)
    assert drawn(high)[0].sub(before).abs().max() < 0.1  # bfloat16 has rounded the weights for good


def test_offloaded_models_work_and_rest_without_hooks(prior: Any) -> None:
    """accelerate's own hooks, with the CPU in the part of the GPU."""
    place = _Placement(torch.device("cpu:0"), torch.float32, offload=True, idle="park")
    worker = _Worker(tiny_prior, place)
    pipe = worker.ready()
    assert hasattr(pipe.text_encoder, "_hf_hook")
    assert worker.ready() is pipe
    assert torch.equal(asked(silent(pipe))["image_embeds"], asked(prior)["image_embeds"])
    worker.rest()
    assert not hasattr(pipe.text_encoder, "_hf_hook")
    assert worker.ready() is pipe
    assert hasattr(pipe.text_encoder, "_hf_hook")
