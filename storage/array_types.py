"""Arrays by what they hold. Shapes stand in the names of variables and in docstrings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
BitArray = npt.NDArray[np.uint16]
"""float16 values by their bits, in order (tasks.numerics.float16_bits)."""
HalfArray = npt.NDArray[np.float16]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
