"""CLIP perceptors: architecture from weights, parity with openai-clip, tokens, cut vocabularies."""

from __future__ import annotations

import pytest
import torch
from clip.clip import tokenize
from conftest import CPU, tiny_clip
from torch.nn import functional as F

from vqclip.job import InputError, WeightsError
from vqclip.perceptors import Perceptor, clip
from vqclip.perceptors.towers import fast_image_tower


@pytest.mark.parametrize("resnet", [False, True])
def test_features_equal_openai_clips(*, resnet: bool) -> None:
    theirs = tiny_clip(3, resnet=resnet)
    ours = clip.ClipPerceptor(clip.build(theirs.state_dict()), device=CPU)
    crops = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    normalised = (crops - torch.tensor(clip.MEAN).view(3, 1, 1)) / torch.tensor(clip.STD).view(3, 1, 1)
    expected = F.normalize(theirs.encode_image(normalised), dim=-1)
    assert torch.allclose(ours.embed_image(crops), expected, atol=1e-5)
    texts = ["a red apple", "Blue  HEART on white!", ""]
    expected = F.normalize(theirs.encode_text(tokenize(texts)), dim=-1)
    assert torch.allclose(ours.embed_text(texts), expected, atol=1e-5)


@pytest.mark.parametrize("resnet", [False, True])
def test_pixel_gradients_equal_openai_clips(*, resnet: bool) -> None:
    visual = tiny_clip(3, resnet=resnet).visual
    fast = fast_image_tower(visual, torch.float32)
    grads = []
    for tower in (visual, fast):
        pictures = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
        tower(pictures).square().sum().backward()
        grads.append(pictures.grad)
    assert float((grads[0] - grads[1]).norm() / grads[0].norm()) < 1e-4


@pytest.mark.parametrize("resnet", [False, True])
def test_bfloat16_features_point_the_same_way(*, resnet: bool) -> None:
    model = clip.build(tiny_clip(3, resnet=resnet).state_dict())
    exact, half = (clip.ClipPerceptor(model, device=CPU, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    crops = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = half.embed_image(crops)
    assert features.dtype == torch.float32
    assert float((features * exact.embed_image(crops)).sum(1).min()) > 0.99


def test_it_is_a_perceptor_with_unit_rows(guide: clip.ClipPerceptor) -> None:
    assert isinstance(guide, Perceptor)
    assert guide.size == 32
    crops = torch.rand(3, 3, 32, 32, requires_grad=True)
    rows = guide.embed_image(crops)
    assert torch.allclose(rows.norm(dim=1), torch.ones(3), atol=1e-6)
    rows[:, 0].sum().backward()
    assert float(crops.grad.abs().sum()) > 0
    assert torch.allclose(guide.embed_text(["x", "y z"]).norm(dim=1), torch.ones(2), atol=1e-6)


def test_texts_keep_the_length_that_the_tower_gives_them() -> None:
    theirs, texts = tiny_clip(3), ["x", "y z"]
    ours = clip.ClipPerceptor(clip.build(theirs.state_dict()), device=CPU)
    raw = ours.embed_text(texts, unit=False)
    assert torch.allclose(raw, theirs.encode_text(tokenize(texts)), atol=1e-6)
    assert torch.allclose(F.normalize(raw, dim=1), ours.embed_text(texts), atol=1e-6)
    assert float(raw.norm(dim=1).sub(1).abs().min()) > 0.01


def test_too_many_tokens_are_an_error_or_cut_as_asked() -> None:
    model = clip.build(tiny_clip().state_dict())
    long = "apple " * 100
    with pytest.raises(InputError, match="has 100 tokens; this CLIP reads 75"):
        clip.ClipPerceptor(model, device=CPU).embed_text([long])
    said: list[str] = []
    cutting = clip.ClipPerceptor(model, device=CPU, too_long="truncate", notice=said.append)
    assert torch.equal(cutting.embed_text([long]), cutting.embed_text(["apple " * 75]))
    assert len(said) == 1
    assert "the rest is cut off" in said[0]


def cut_perceptor(words: list[str], said: list[str]) -> clip.ClipPerceptor:
    """The tiny CLIP with an embedding of only the tokens of `words`."""
    state = dict(tiny_clip(1).state_dict())
    ids = sorted({i for word in words for i in clip.tokenizer.encode(word)} | set(clip.special_tokens()))
    rows = torch.tensor(ids)
    state["token_embedding.weight"] = state["token_embedding.weight"][rows]
    return clip.ClipPerceptor(clip.build(state), device=CPU, token_ids=rows.int(), notice=said.append)


def test_a_cut_vocabulary_reads_known_words_like_the_full_one(guide: clip.ClipPerceptor) -> None:
    said: list[str] = []
    cut = cut_perceptor(["red", "apple", "a"], said)
    assert torch.allclose(cut.embed_text(["a red apple"]), guide.embed_text(["a red apple"]), atol=1e-6)
    assert said == []


def test_unknown_words_are_left_out_in_silence_and_told_when_asked(guide: clip.ClipPerceptor) -> None:
    said: list[str] = []
    cut = cut_perceptor(["red", "apple", "a"], said)
    text = "a zyx red zyx apple quasar"
    assert torch.allclose(cut.embed_text([text]), guide.embed_text(["a red apple"]), atol=1e-6)
    assert said == []
    assert cut.read(text).unread == ("zyx", "quasar")


def test_unordered_token_ids_are_refused() -> None:
    """The end of a text is found as its largest row, so rows must follow the ids."""
    model = clip.build(tiny_clip(1).state_dict())
    with pytest.raises(WeightsError, match="token_ids"):
        clip.ClipPerceptor(model, device=CPU, token_ids=torch.tensor([49407, 49406, 320]))


def test_odd_states_are_refused() -> None:
    state = tiny_clip().state_dict()
    short = {key: value for key, value in state.items() if key != "ln_final.bias"}
    for broken in ({}, {"visual.proj": torch.zeros(2, 2)}, short, state | {"visual.extra": torch.zeros(2)}):
        with pytest.raises(WeightsError, match="not a CLIP of OpenAI's layout"):
            clip.build(broken)


def test_building_leaves_the_state_as_it_was() -> None:
    state = dict(tiny_clip().state_dict())
    keys = set(state)
    clip.build(state | {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77)})
    assert set(state) == keys
