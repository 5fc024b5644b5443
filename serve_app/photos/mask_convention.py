"""What a mask file marks with. A type of its own: who passes it on need not know how images are read."""

from __future__ import annotations

from typing import Literal

MaskConvention = Literal["white", "transparent"]
"""white: white is edited, weakened by alpha. transparent: transparency is edited; white, in a file that has none."""
