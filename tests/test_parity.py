"""At full size and with random weights: the same pictures, codes and features as the packages the weights come from."""

from __future__ import annotations

import contextlib
import io

import pytest
import torch
from clip.clip import tokenize
from clip.model import CLIP
from conftest import CPU
from taming.modules.diffusionmodules.model import Decoder, Encoder
from test_full_size import VIT_B_32, random_state
from torch import Tensor
from torch.nn import functional as F

from vqclip.generators import vqgan
from vqclip.perceptors import clip

LAYOUTS = {
    "imagenet f16 16384": vqgan.Architecture(128, (1, 1, 2, 2, 4), 2, (4,), 3, 3, 256, 16384, 256, gumbel=False),
    "gumbel f8 8192": vqgan.Architecture(128, (1, 1, 2, 4), 2, (3,), 3, 3, 256, 8192, 256, gumbel=True),
    "ldm f4 8192": vqgan.Architecture(128, (1, 2, 4), 2, (), 3, 3, 3, 8192, 3, gumbel=False),
}
MILLIONS = {"imagenet f16 16384": 76.1, "gumbel f8 8192": 69.0, "ldm f4 8192": 55.3}
CLIPS = {"ViT-B/32": VIT_B_32, "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12)}


def their_decoder_and_encoder(shape: vqgan.Architecture, state: dict[str, Tensor]) -> tuple[Decoder, Encoder]:
    arguments = {
        "ch": shape.channels, "out_ch": 3, "ch_mult": shape.multipliers, "num_res_blocks": shape.blocks,
        "attn_resolutions": [256 >> level for level in shape.attention], "in_channels": 3, "resolution": 256,
        "z_channels": shape.z_channels, "double_z": False, "dropout": 0.0,
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()), torch.device("meta"):
        parts = {"decoder.": Decoder(**arguments), "encoder.": Encoder(**arguments)}
    for prefix, part in parts.items():
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        part.load_state_dict(own, assign=True)
        part.eval()
    return parts["decoder."], parts["encoder."]


@torch.no_grad()
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_vqgan_decodes_and_encodes_like_tamings(name: str) -> None:
    shape = LAYOUTS[name]
    state = random_state(lambda: vqgan.VQModel(shape), 0, torch.float32)
    assert round(sum(value.numel() for value in state.values()) / 1e6, 1) == MILLIONS[name]
    assert vqgan.infer_architecture(state) == shape
    model = vqgan.VQGAN(vqgan.build(state), device=CPU)
    decoder, encoder = their_decoder_and_encoder(shape, state)
    side = 2 * shape.stride if shape.stride > 8 else 4 * shape.stride

    latent = model.sample((side, side), torch.Generator().manual_seed(1))
    expected = decoder(torch.conv2d(latent, state["post_quant_conv.weight"], state["post_quant_conv.bias"]))
    assert float(expected.std()) > 0.05
    assert torch.allclose(model.decode(latent), ((expected + 1) / 2).clamp(0, 1), rtol=0, atol=1e-5)

    picture = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(2))
    hidden = torch.conv2d(encoder(picture * 2 - 1), state["quant_conv.weight"], state["quant_conv.bias"])
    if shape.gumbel:
        codes = torch.conv2d(hidden, state["quantize.proj.weight"], state["quantize.proj.bias"]).argmax(1)
    else:
        cells, rows = hidden.movedim(1, -1).double(), state["quantize.embedding.weight"].double()
        codes = (cells[..., None, :] - rows).square().sum(-1).argmin(-1)
    assert torch.equal(model.codes(picture), codes)
    assert len(codes.unique()) > 1


@torch.no_grad()
@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_sees_and_reads_like_openais(name: str) -> None:
    state = random_state(lambda: CLIP(*CLIPS[name]), 3, torch.float32)
    rng = torch.Generator().manual_seed(5)
    for key, value in state.items():  # what a ResNet has learned of its inputs
        if key.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand(value.shape, generator=rng) - 0.5 + key.endswith("var"))
    theirs = CLIP(*CLIPS[name])
    theirs.load_state_dict(state)
    theirs.eval()
    ours = clip.ClipPerceptor(clip.build(state), device=CPU)
    assert ours.size == 224
    noise = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(4)) ** torch.tensor([1.0, 6.0]).view(
        2, 1, 1, 1
    )
    crops = F.interpolate(noise, size=224)  # noise finer than that averages out in a network that was not trained
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (clip.MEAN, clip.STD))
    expected = F.normalize(theirs.encode_image((crops - mean) / std), dim=-1)
    assert torch.allclose(ours.embed_image(crops), expected, rtol=0, atol=1e-4)
    assert float((expected[0] - expected[1]).norm()) > 0.005
    texts = ["a lighthouse in a storm, oil painting", "text"]
    expected = F.normalize(theirs.encode_text(tokenize(texts)), dim=-1)
    assert torch.allclose(ours.embed_text(texts), expected, rtol=0, atol=1e-4)
    assert float((expected[0] - expected[1]).norm()) > 0.01
