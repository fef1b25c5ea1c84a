"""What can be known of a curvature matrix from products with it, each number with its error."""

from __future__ import annotations

from problems.spectrum.summary import Spectrum, measure

__all__ = ["Spectrum", "measure"]
