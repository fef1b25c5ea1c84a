"""How vectors lie in H's eigenspaces: vᵀ f(H) v for any f, by Gauss quadrature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SpectralMeasure:
    """Nodes and weights, both (k, m), float64, a row for each of k vectors v; a row's weights sum to ‖v‖².

    m steps of Lanczos or CG from v make Σ weights · f(nodes) = vᵀ f(H) v exact for polynomials f of degree
    2m − 1 (Golub & Meurant 2010). Rows with fewer nodes end in weights of 0.
    """

    nodes: Tensor
    weights: Tensor

    def integral(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """vᵀ f(H) v of every vector, shape (…, k), for f that takes nodes (k, m) to (…, k, m)."""
        return (self.weights * function(self.nodes)).sum(dim=-1)

    @classmethod
    def of(cls, eigenvalues: Tensor, eigenvectors: Tensor, vectors: Tensor) -> SpectralMeasure:
        """The exact measure of the columns of `vectors` (p, k), where H's eigendecomposition is known."""
        coordinates = eigenvectors.T @ vectors.to(eigenvectors)
        return cls(eigenvalues.expand(vectors.shape[1], -1), coordinates.T.square())
