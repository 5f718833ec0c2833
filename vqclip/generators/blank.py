"""Networks that have shapes and no numbers yet, for weights that are about to be loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

# What only changes numbers; openai-clip's classes also scale some of what they draw, and cut a mask.
_FILLS = (Tensor.normal_, Tensor.uniform_, Tensor.triu_, init.normal_, init.uniform_, init.kaiming_uniform_)
_SCALES = (Tensor.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.div, Tensor.__truediv__)


@contextmanager
def blank() -> Iterator[None]:
    """Networks made in this block lie on the meta device, and nothing is drawn for them.

    torch has the draws of that device in Python and imports all of torch._dynamo and sympy for the first one.
    """
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Leaves tensors as they are where random numbers would be put into them."""

    def __torch_function__(
        self, called: Callable[..., Any], _types: Sequence[type], given: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        named = options or {}
        if called in _FILLS:
            return given[0] if given else named["tensor"]
        if called in _SCALES and isinstance(given[1], float):
            return given[0]
        return (torch.empty if called is torch.randn else called)(*given, **named)
