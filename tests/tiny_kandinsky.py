"""Kandinsky 2.2's own classes at tiny size with random weights: a prior and a decoder that run in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDPMScheduler,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

DIM = 32  # of every embedding
LETTERS = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]

DOWN = (*["DownEncoderBlock2D"] * 3, "AttnDownEncoderBlock2D")  # four levels: 8 pixels per latent cell
UP = ("AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 3)


def tiny_tokenizer() -> CLIPTokenizer:
    """Every byte is a token, so that a prompt may have 75 letters."""
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=77)


def tiny_prior(seed: int = 0) -> KandinskyV22PriorPipeline:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=514,
                hidden_size=DIM,
                projection_dim=DIM,
                intermediate_size=37,
                num_attention_heads=4,
                num_hidden_layers=2,
                max_position_embeddings=77,
                bos_token_id=512,
                eos_token_id=513,
                pad_token_id=513,
            )
        )
        vision = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=DIM,
                projection_dim=DIM,
                intermediate_size=37,
                num_attention_heads=4,
                num_hidden_layers=2,
                image_size=32,
                patch_size=8,
            )
        )
        prior = PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            embedding_dim=DIM,
            num_embeddings=77,
            additional_embeddings=4,
        )
        with torch.no_grad():
            prior.clip_std.fill_(1.0)  # zero when fresh, and with it every embedding
    return KandinskyV22PriorPipeline(
        prior=prior.eval(),
        image_encoder=vision.eval(),
        text_encoder=text.eval(),
        tokenizer=tiny_tokenizer(),
        scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log",
            prediction_type="sample",
            num_train_timesteps=1000,
            clip_sample=True,
            clip_sample_range=10.0,
        ),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    )


def tiny_unet(seed: int = 0, *, channels: int = 4, out: int = 8) -> UNet2DConditionModel:
    """Four levels, as many as the real one has, so that sizes which do not divide fail here too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=channels,
            out_channels=out,
            addition_embed_type="image",
            down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
            up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            block_out_channels=(32, 32, 64, 64),
            layers_per_block=1,
            encoder_hid_dim=DIM,
            encoder_hid_dim_type="image_proj",
            cross_attention_dim=DIM,
            attention_head_dim=4,
            resnet_time_scale_shift="scale_shift",
        ).eval()


def tiny_movq(seed: int = 0) -> VQModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VQModel(
            block_out_channels=(32, 32, 64, 64),
            down_block_types=DOWN,
            up_block_types=UP,
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=8,
            norm_type="spatial",
            num_vq_embeddings=12,
            vq_embed_dim=4,
        ).eval()


def tiny_scheduler() -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=True,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="epsilon",
    )


def tiny_decoder(seed: int = 0) -> KandinskyV22Pipeline:
    return KandinskyV22Pipeline(unet=tiny_unet(seed), scheduler=tiny_scheduler(), movq=tiny_movq(seed))


def tiny_inpainter(seed: int = 0) -> KandinskyV22InpaintPipeline:
    return KandinskyV22InpaintPipeline(
        unet=tiny_unet(seed, channels=9), scheduler=tiny_scheduler(), movq=tiny_movq(seed)
    )


def silent(pipe: Any) -> Any:
    """A pipeline for direct calls, without its bar."""
    pipe.set_progress_bar_config(disable=True)
    return pipe
