"""Multimodal product vectors that lift click-through rate, and the ad server that uses them.

The public face: `Dataset` (a catalog with its logs, on disk) and `Encoder` (a trained encoder, on disk).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import MoontideError

if TYPE_CHECKING:
    from moontide.encoder.model.encoder import MoonEncoder as Encoder

__version__ = "0.1.0"
__all__ = ["Dataset", "Encoder", "MoontideError", "__version__"]


def __getattr__(name: str) -> Any:
    """`Encoder` is imported when it is asked for: reading a dataset must not wait for PyTorch."""
    if name == "Encoder":
        from moontide.encoder.model.encoder import MoonEncoder

        return MoonEncoder
    raise AttributeError(f"module 'moontide' has no attribute {name!r}")
