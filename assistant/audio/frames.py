"""FFmpeg's decoded frames as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import av

_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2.0**31, "s64": 2.0**63}  # of FFmpeg's integer sample formats


def planes(frame: av.AudioFrame) -> NDArray[np.float32]:
    """A frame of any sample format as shape (frames, channels), nominally -1 to 1."""
    array = frame.to_ndarray()
    channels = frame.layout.nb_channels
    block = array.T if frame.format.is_planar else array.reshape(-1, channels)
    packed = frame.format.name.removesuffix("p")
    if packed not in _SCALE:
        return block.astype(np.float32)
    offset = 128.0 if packed == "u8" else 0.0
    return ((block.astype(np.float64) - offset) / _SCALE[packed]).astype(np.float32)
