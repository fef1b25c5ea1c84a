"""Mini-batch sizes that mean the same of images and of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.study import Piece
from problems import Problem
from problems.operators.tokens import sequences_for
from problems.validation import check_counts
from solvers.measured import PARTS


def check_batch_sizes(batch_sizes: Sequence[int], tokens_per_example: int) -> None:
    """Raise ValueError where there is none, or one is no positive number."""
    check_counts(tokens_per_example=tokens_per_example)
    if not batch_sizes:
        raise ValueError("batch_sizes is empty; name at least one mini-batch size")
    for batch_size in batch_sizes:
        check_counts(batch_sizes=batch_size)


def units(problem: Problem, piece: Piece, tokens_per_example: int) -> int:
    """The piece's batch size in the problem's units: of a language model so many tokens for each example."""
    size: int = piece["batch_size"]
    return size * tokens_per_example if problem.operator.unit == "token" else size


def whole_units(problem: Problem, examples: int, tokens_per_example: int) -> int:
    """`units` of so many examples, of whole sequences where they hold one: no draw is then a part of one.

    `phase` and `condition` keep the parts, whose sizes are what they compare.
    """
    size = units(problem, {"batch_size": examples}, tokens_per_example)
    length = problem.operator.num_examples / problem.operator.num_draws
    return size if size < length else math.floor(round(size / length) * length)


def parts_of(problem: Problem, batch_size: int) -> int:
    """Parts of each sequence of which E h̃² is taken to be the mean: as many as make some hundred in all.

    No more than a sequence has, so 1 where draws are whole; of small problems as many as it has tokens, each
    of which then counts equally often.
    """
    operator = problem.operator
    length = operator.num_examples / operator.num_draws
    share = sequences_for(batch_size, length)[1]
    if problem.is_dense and share < 1:
        return math.ceil(length)
    return min(math.ceil(1 / share), max(1, PARTS // operator.num_draws))
