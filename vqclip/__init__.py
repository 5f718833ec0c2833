"""CLIP-guided image optimization over VQGAN latents.

    import vqclip
    result = vqclip.generate(include="a red apple", exclude="yellow", steps=100)
    result.show()

Names are loaded on first use, so that importing the package does nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqclip.api import Picture, generate, steps
    from vqclip.config import load as load_config
    from vqclip.job import InputError, Job, Prompt, ResourceError, Result, Step, Verdict, WeightsError

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "Job",
    "Picture",
    "Prompt",
    "ResourceError",
    "Result",
    "Step",
    "Verdict",
    "WeightsError",
    "generate",
    "load_config",
    "steps",
]


def __getattr__(name: str) -> Any:
    if name in ("Picture", "generate", "steps"):
        from vqclip import api

        return getattr(api, name)
    if name == "load_config":
        from vqclip.config import load

        return load
    if name in __all__:
        from vqclip import job

        return getattr(job, name)
    raise AttributeError(f"module 'vqclip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
