"""How unequal the examples' curvatures are: C, which the trace of H alone cannot see."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from problems.operators.base import CurvatureOperator
from problems.spectrum.estimate import Estimate, mean
from problems.spectrum.trace import random_signs
from problems.validation import check_counts

# Examples that are looked at again, those whose traces were largest the first time.
FINALISTS = 8
# How many times as many vectors they get: they cost little.
AGAIN = 4


@dataclass(frozen=True)
class Heterogeneity:
    """C = max_i Tr(h_i)/Tr(H) ≥ 1; `example` is the i it belongs to."""

    ratio: Estimate
    example: int


def heterogeneity(operator: CurvatureOperator, samples: int, generator: torch.Generator) -> Heterogeneity:
    """C from the forms zᵀh_i z of all examples with `samples` vectors z of random signs.

    The largest of many noisy traces is too large. So the few that are largest are looked at again, and the
    one of them that is largest then is measured with vectors of its own: unbiased for that example, and a
    lower bound of C, since the largest may be another. Costs `samples` gradient equivalents, and
    (8 + 1) · 4/n as much again for the few. ValueError where H offers no forms of single examples.
    """
    check_counts(samples=samples)

    def traces(of: CurvatureOperator, count: int) -> Tensor:
        return of.example_forms(random_signs(operator, count, generator)).double().cpu()

    first = traces(operator, samples).mean(dim=1)
    # Tr(H) is known far better than one example's trace.
    scale = float(first.mean())
    if not scale > 0:
        raise ValueError(f"Tr(H) is {scale:.3g}; heterogeneity needs H ⪰ 0 that is not 0")
    finalists = first.topk(min(FINALISTS, len(first))).indices
    again = first[finalists] + AGAIN * traces(operator.subset(finalists), AGAIN * samples).mean(dim=1)
    example = int(finalists[again.argmax()])
    own = mean(traces(operator.subset(torch.tensor([example])), AGAIN * samples)[0])
    ratio = own.times(1 / scale)
    return Heterogeneity(replace(ratio, kind="lower bound"), example)
