"""The small Kandinsky that ships: the guide seen through the pipeline's own classes, and files that must fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from clip.model import CLIP
from diffusers import PriorTransformer, UNet2DConditionModel, VQModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from vqclip.backends.kandinsky import starter
from vqclip.backends.kandinsky.encoders import ImageEncoder, Tokenizer, image_processor, text_encoder
from vqclip.job import InputError, Reading, WeightsError
from vqclip.perceptors import clip
from vqclip.weights import convert
from vqclip.weights import load as weights

WORDS = "a an red blue apple house on white background"
IDS = sorted({i for word in WORDS.split() for i in clip.tokenizer.encode(word)} | set(clip.special_tokens()))
CONTEXT, WIDE = 12, 32
UNET: dict[str, Any] = {
    "sample_size": 8, "in_channels": 4, "out_channels": 8, "addition_embed_type": "image",
    "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "block_out_channels": [8, 16], "layers_per_block": 1,
    "encoder_hid_dim": WIDE, "encoder_hid_dim_type": "image_proj", "cross_attention_dim": 8,
    "attention_head_dim": 8, "resnet_time_scale_shift": "scale_shift", "norm_num_groups": 4,
}  # fmt: skip
MOVQ: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "vq_embed_dim": 4, "num_vq_embeddings": 8,
    "block_out_channels": [32, 32, 32, 32], "layers_per_block": 1, "norm_num_groups": 4, "norm_type": "spatial",
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
PRIOR: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "embedding_dim": WIDE,
    "num_embeddings": CONTEXT, "additional_embeddings": 4,
}  # fmt: skip


def halves(model: torch.nn.Module) -> dict[str, Tensor]:
    state = {key: value.clone().contiguous() for key, value in model.state_dict().items()}
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def write(path: Path, state: dict[str, Tensor], kind: str, architecture: Any, guide: str = "") -> Path:
    """A starter file with the metadata that the loader reads."""
    texts = {"architecture": json.dumps(architecture), "training": json.dumps({"guide": guide})}
    save_file(state, path, {"format": "vqclip-1", "kind": kind} | texts)
    return path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny guide with a cut vocabulary, and a prior, a UNet and a MoVQ with random weights."""
    folder = tmp_path_factory.mktemp("starter")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide = CLIP(WIDE, 32, (1, 1, 1, 1), 8, None, CONTEXT, len(IDS), 64, 1, 2)
        prior = PriorTransformer(**PRIOR)
        prior.clip_std.data.fill_(1.0)
        unet, movq = UNet2DConditionModel(**UNET), VQModel(**MOVQ)
    state = halves(guide) | {"token_ids": torch.tensor(IDS, dtype=torch.int32)}
    digest = convert.digest_of(state)
    return {
        "guide": write(folder / "guide.safetensors", state, "clip", {}),
        "prior": write(folder / "prior.safetensors", halves(prior), "kandinsky-prior", PRIOR, digest),
        "unet": write(folder / "unet.safetensors", halves(unet), "kandinsky-unet", UNET),
        "movq": write(folder / "movq.safetensors", halves(movq), "kandinsky-movq", MOVQ),
    }


@pytest.fixture(scope="session")
def guide(files: dict[str, Path]) -> weights.Weights:
    return weights.load(files["guide"])


def open_prior(files: dict[str, Path], **options: Any) -> Any:
    return starter.find_prior(str(files["prior"]), str(files["guide"])).open(**options)


def open_decoder(files: dict[str, Path], **options: Any) -> Any:
    return starter.find_decoder(str(files["unet"]), str(files["movq"])).open(**options)


def test_texts_mean_the_same_through_the_pipeline_s_encoder(guide: weights.Weights) -> None:
    texts = ["a red apple on a white background", "blue house", "apple"]
    perceptor = clip.ClipPerceptor(
        clip.build(guide.state), device=torch.device("cpu"), token_ids=guide.state["token_ids"]
    )
    rows = Tokenizer(guide.state["token_ids"], CONTEXT, Reading)(texts, padding="max_length", truncation=True)
    out = text_encoder(clip.build(guide.state))(rows.input_ids)
    assert (F.normalize(out.text_embeds, dim=-1) - perceptor.embed_text(texts)).abs().max() < 1e-5
    assert out.last_hidden_state.shape == (3, CONTEXT, WIDE)
    ends = rows.attention_mask.sum(1) - 1
    assert torch.allclose(out.last_hidden_state[torch.arange(3), ends], out.text_embeds, atol=1e-6)


def test_pictures_mean_the_same_through_the_pipeline_s_encoder(guide: weights.Weights) -> None:
    perceptor = clip.ClipPerceptor(clip.build(guide.state), device=torch.device("cpu"))
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)).mul(255).round()
    pil = Image.fromarray(picture[0].byte().permute(1, 2, 0).numpy())
    pixels = image_processor(32)(pil, return_tensors="pt").pixel_values
    embeds = ImageEncoder(clip.build(guide.state).visual)(pixels)["image_embeds"]
    assert (embeds / WIDE**0.5 - perceptor.embed_image(picture / 255)).abs().max() < 1e-4
    assert embeds.norm().item() == pytest.approx(WIDE**0.5, rel=1e-4)


def test_the_tokenizer_reads_as_the_guide_does(guide: weights.Weights) -> None:
    ids = guide.state["token_ids"]
    tokenizer = Tokenizer(ids, CONTEXT, clip.reading_of(ids))
    strange, plain = tokenizer("A HOUSE, over Tokyo!"), tokenizer("a house")
    assert torch.equal(strange.input_ids, plain.input_ids)


def test_the_prior_says_how_it_reads_and_the_decoder_reads_nothing(files: dict[str, Path]) -> None:
    prior = starter.find_prior(str(files["prior"]), str(files["guide"]))
    assert prior.read is not None
    assert prior.read("a zebra house").unread == ("zebra",)
    assert starter.find_decoder(str(files["unet"]), str(files["movq"])).read is None


def test_the_tokenizer_pads_cuts_and_reads_back() -> None:
    tokenizer = Tokenizer(torch.tensor(IDS), CONTEXT, Reading)
    both = tokenizer(["a red apple", ""], padding="max_length", max_length=8, truncation=True)
    assert both.input_ids.shape == (2, 8)
    assert both.attention_mask.sum(1).tolist() == [5, 2]
    assert both["input_ids"][1, :2].tolist() == [len(IDS) - 2, len(IDS) - 1]
    long = "red " * 30
    cut = tokenizer([long], padding="max_length", truncation=True)
    assert cut.input_ids.shape == (1, CONTEXT)
    assert cut.input_ids[0, -1] == len(IDS) - 1
    assert tokenizer([long]).input_ids.shape == (1, 32)
    assert tokenizer.batch_decode(both.input_ids[:1, 1:4]) == ["a red apple "]
    with pytest.raises(ValueError, match="padding 'left'"):
        tokenizer("a", padding="left")


def test_both_halves_draw_a_picture_of_the_asked_size_and_repeat_it(files: dict[str, Path]) -> None:
    prior, decoder = open_prior(files), open_decoder(files)

    def draw() -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(3)
        out = prior("a red apple", num_inference_steps=3, generator=rng)
        pair = {"image_embeds": out.image_embeds, "negative_image_embeds": out.negative_image_embeds}
        made = decoder(**pair, height=128, width=64, num_inference_steps=2, generator=rng, output_type="pt").images
        return out.image_embeds, made

    embeds, picture = draw()
    assert embeds.shape == (1, WIDE)
    assert picture.shape == (1, 3, 128, 64)
    assert picture.isfinite().all()
    assert torch.equal(picture, draw()[1])
    grey = prior.image_encoder(torch.zeros(1, 3, 32, 32))["image_embeds"]
    assert torch.equal(prior.get_zero_embed(), grey)


def test_texts_and_pictures_blend(files: dict[str, Path]) -> None:
    prior = open_prior(files)
    rng = torch.Generator().manual_seed(0)
    parts = ["red apple", Image.new("RGB", (50, 40), "blue")]
    out = prior.interpolate(parts, [0.4, 0.6], num_inference_steps=2, generator=rng)
    assert out.image_embeds.shape == out.negative_image_embeds.shape == (1, WIDE)
    assert out.image_embeds.isfinite().all()


def test_image_to_image_shares_the_networks(files: dict[str, Path]) -> None:
    decoder = open_decoder(files)
    other = starter.as_image_to_image(decoder)
    assert other.unet is decoder.unet
    embeds = torch.zeros(1, WIDE)
    made = other(
        embeds, Image.new("RGB", (64, 64), "red"), embeds, height=64, width=64, strength=0.5, num_inference_steps=4,
        output_type="pt",
    )  # fmt: skip
    assert made.images.shape == (1, 3, 64, 64)


def test_precision_reaches_every_network(files: dict[str, Path]) -> None:
    prior, decoder = (maker(files, dtype=torch.bfloat16) for maker in (open_prior, open_decoder))
    nets = (prior.prior, prior.text_encoder, prior.image_encoder, decoder.unet, decoder.movq)
    assert {net.dtype for net in nets} == {torch.bfloat16}
    out = prior("apple", num_inference_steps=2)
    assert out.image_embeds.dtype == out.negative_image_embeds.dtype == torch.bfloat16


def test_finding_names_and_hashes_the_files_and_leaves_the_random_numbers_alone(files: dict[str, Path]) -> None:
    before = torch.random.get_rng_state()
    prior = starter.find_prior(str(files["prior"]), str(files["guide"]))
    prior.open()
    open_decoder(files)
    assert torch.equal(before, torch.random.get_rng_state())
    assert set(prior.hashes) == {"prior", "guide"}
    assert prior.name == "prior.safetensors"
    assert all(len(digest) == 64 for digest in prior.hashes.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_size": 10**9}, "architecture.sample_size is 1000000000"),
        ({"in_channels": 9}, "architecture.in_channels is 9"),
        ({"block_out_channels": "huge"}, "architecture.block_out_channels is 'huge'"),
        ({"block_out_channels": [8, True]}, "architecture.block_out_channels"),
        ({"down_block_types": ["Evil", "Evil"]}, "architecture.down_block_types"),
        ({"_class_name": "os.system"}, "names '_class_name', which is no argument"),
        ({"block_out_channels": [8, 24]}, "the weights do not fit"),
    ],
)
def test_arguments_out_of_bounds_are_refused(
    files: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "unet.safetensors", load_file(files["unet"]), "kandinsky-unet", UNET | change)
    with pytest.raises(WeightsError, match=message) as refused:
        starter.find_decoder(str(path), str(files["movq"])).open()
    assert "\n" not in str(refused.value)


def test_files_of_another_kind_or_without_arguments_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds 'kandinsky-movq'; 'kandinsky-unet' is needed"):
        starter.find_decoder(str(files["movq"]), str(files["movq"]))
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(files["unet"]), bare, {"kind": "kandinsky-unet"})
    with pytest.raises(WeightsError, match="no readable 'architecture'"):
        starter.find_decoder(str(bare), str(files["movq"]))
    lacking = {key: value for key, value in UNET.items() if key != "encoder_hid_dim"}
    path = write(tmp_path / "unet.safetensors", load_file(files["unet"]), "kandinsky-unet", lacking)
    with pytest.raises(WeightsError, match="architecture lacks encoder_hid_dim"):
        starter.find_decoder(str(path), str(files["movq"]))
    with pytest.raises(InputError, match="no starter model 'kandinsky-9'"):
        starter.find_decoder("starter/kandinsky-9", str(files["movq"]))


def test_a_prior_belongs_to_its_guide(files: dict[str, Path], tmp_path: Path) -> None:
    state = load_file(files["guide"])
    state["text_projection"] = state["text_projection"] + 1
    other = write(tmp_path / "guide.safetensors", state, "clip", {})
    with pytest.raises(WeightsError, match="was trained with another guide"):
        starter.find_prior(str(files["prior"]), str(other))
    narrow = write(
        tmp_path / "prior.safetensors", load_file(files["prior"]), "kandinsky-prior", PRIOR | {"num_embeddings": 9},
        convert.digest_of(load_file(files["guide"])),
    )  # fmt: skip
    with pytest.raises(WeightsError, match=f"num_embeddings is 9; .* has {CONTEXT}"):
        starter.find_prior(str(narrow), str(files["guide"])).open()
