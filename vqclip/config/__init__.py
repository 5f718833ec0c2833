"""From text to one frozen Config: layers of defaults, preset, base files, the file and overrides."""

from vqclip.config.resolve import (
    Loaded,
    digest,
    explain,
    from_mapping,
    is_set,
    layer_of,
    load,
    load_over,
    over,
    pictures,
    resolved,
    to_mapping,
    to_yaml,
)
from vqclip.config.schema import Config, Guide, Picture, Reference, Variant

__all__ = [
    "Config",
    "Guide",
    "Loaded",
    "Picture",
    "Reference",
    "Variant",
    "digest",
    "explain",
    "from_mapping",
    "is_set",
    "layer_of",
    "load",
    "load_over",
    "over",
    "pictures",
    "resolved",
    "to_mapping",
    "to_yaml",
]
