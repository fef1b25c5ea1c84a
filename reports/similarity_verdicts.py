"""Does the inverse suppress what all gradients share? Paragraphs and conclusions from the numbers alone."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from reports.conclusions import Conclusion, together
from reports.formats import count, number, share
from reports.similarity_rows import (
    Similarities,
    Value,
    change,
    cosine_bound,
    cosines,
    gap,
    jackknife,
    kind_mask,
    leading_share,
    mean_of,
    neighbours,
    separation,
    similarities,
)
from reports.study import plus_minus

_UNRELATED = mean_of("unrelated")


def findings(rows: pd.DataFrame) -> dict[str, str]:
    """A paragraph for each problem, in their order."""
    return {found.problem: _paragraph(found) for found in similarities(rows)}


def conclusions(rows: pd.DataFrame) -> list[Conclusion]:
    """The paper's finding in its Figure 3, and ours: whether what is left is meaning."""
    told = [found for found in similarities(rows) if found.solved]
    return [
        Conclusion(
            "The inverse Hessian suppresses what all gradients share",
            "Figure 3",
            together(suppressed(found) for found in told),
            _numbers(told, _suppression),
        ),
        Conclusion(
            "Paraphrases are more alike by influence than unrelated sentences",
            "",
            together(distinct(found) for found in told),
            _numbers(told, _distinction),
        ),
    ]


def suppressed(found: Similarities) -> bool | None:
    """Whether unrelated sentences are less alike by influence than by gradient; None if that is undecided.

    The change must exceed two standard errors and what the solver may be off.
    """
    changed = change(_UNRELATED, cosines(found.gradient), cosines(found.influence))
    if not changed.sign or not abs(changed.value) > _off(found, "unrelated"):
        return None
    # What is not shared by gradient cannot be suppressed.
    if jackknife(_UNRELATED, cosines(found.gradient)).sign <= 0:
        return None
    return changed.value < 0


def distinct(found: Similarities) -> bool | None:
    """Whether sentences are more like their paraphrase by influence than those of others; None: undecided."""
    # Of most of them cut at the context there is too little left to mean the same.
    if found.row["cut"] > found.num_pairs:
        return None
    apart = jackknife(gap, cosines(found.influence))
    if not apart.sign or not abs(apart.value) > _off(found, "paired") + _off(found, "crossed"):
        return None
    return apart.value > 0


def _off(found: Similarities, kind: str) -> float:
    """What the mean cosine by influence may be off at most by the solver; NaN where that is unknown."""
    return float(cosine_bound(found)[kind_mask(kind, found.num_pairs)].mean())


def _paragraph(found: Similarities) -> str:
    if not found.solved:
        return (
            f"There are no influences: the solver ended as {found.row['status']} ({found.row['reason']}), so "
            "that nothing can be said of the inverse."
        )
    parts = [_shared(found), _pairs(found), _solver(found), _cut(found)]
    return " ".join(part for part in parts if part)


def _shared(found: Similarities) -> str:
    gradient, influence = cosines(found.gradient), cosines(found.influence)
    shared, left = jackknife(_UNRELATED, gradient), jackknife(_UNRELATED, influence)
    changed = change(_UNRELATED, gradient, influence)
    told = (
        f"Unrelated sentences have a mean cosine of {_told(shared)} by gradient and of {_told(left)} by "
        f"influence, a change of {_told(changed)}: "
    )
    verdict = suppressed(found)
    if shared.sign <= 0:
        told += "their gradients share nothing that could be suppressed"
    elif verdict is None:
        told += "whether the inverse suppresses what all share is not decided"
    elif verdict and left.value > 0:
        told += f"the inverse suppresses {share(1 - left.value / shared.value)} of what all share"
    elif verdict:
        told += "the inverse suppresses all that they share"
    else:
        told += "the inverse brings out what all share, and does not suppress it"
    first, second = leading_share(gradient), leading_share(influence)
    return (
        f"{told}. The leading direction of the gradients, at unit length, holds {share(first)} of their "
        f"squares, and {share(second)} in the geometry of the inverse."
    )


def _pairs(found: Similarities) -> str:
    gradient, influence = cosines(found.gradient), cosines(found.influence)
    near, far = jackknife(gap, influence), jackknife(gap, gradient)
    verdict = distinct(found)
    word = {
        True: "are more alike by influence than unrelated sentences",
        False: "are less alike by influence than unrelated sentences",
        None: "are not surely more alike by influence than unrelated sentences",
    }[verdict]
    total = 2 * found.num_pairs
    return (
        f"Paraphrases {word}: a sentence’s mean cosine with its own is higher by {_told(near)} than with "
        f"those of others (by gradient {_told(far)}); in standard deviations of these by "
        f"{number(separation(influence))} (by gradient {number(separation(gradient))}). The nearest of the "
        f"{total - 1} others is the paraphrase for {neighbours(influence)} of {total} by influence and for "
        f"{neighbours(gradient)} by gradient; of the {found.num_pairs} in the other form it is the nearest "
        f"for {neighbours(influence, crossed=True)} by influence and for "
        f"{neighbours(gradient, crossed=True)} by gradient."
    )


def _solver(found: Similarities) -> str:
    row, off = found.row, cosine_bound(found)[~np.eye(2 * found.num_pairs, dtype=bool)]
    sure = f" and leaves every cosine certain to {number(float(off.max()))}"
    if np.isnan(off).any():
        sure = (
            ". How far that leaves them off is unknown, since H may be indefinite, so that nothing is decided"
        )
    return (
        f"Of the solver’s answer XᵀG is asymmetric by {share(row['asymmetry'])}; the correction by its "
        f"residual moves influences by {share(row['correction'])}{sure}."
    )


def _cut(found: Similarities) -> str:
    cut = found.row["cut"]
    if not cut > 0:
        return ""
    return (
        f"{count(cut)} of the {2 * found.num_pairs} sentences were cut at the model’s context, so that their "
        "meaning is partly lost: the numbers try the method, and say little of meaning."
    )


def _suppression(found: Similarities) -> str:
    gradient, influence = cosines(found.gradient), cosines(found.influence)
    one, other = jackknife(_UNRELATED, gradient), jackknife(_UNRELATED, influence)
    changed = change(_UNRELATED, gradient, influence)
    return (
        f"mean cosine of unrelated sentences {_told(one)} by gradient, {_told(other)} by influence (change "
        f"{_told(changed)})"
    )


def _distinction(found: Similarities) -> str:
    influence = cosines(found.influence)
    near, far = jackknife(mean_of("paired"), influence), jackknife(mean_of("crossed"), influence)
    return (
        f"mean cosine by influence of a sentence with its paraphrase {_told(near)}, with those of others "
        f"{_told(far)}; the paraphrase is the nearest of all for {neighbours(influence)} of "
        f"{2 * found.num_pairs} sentences (by gradient for {neighbours(cosines(found.gradient))})"
    )


def _told(value: Value) -> str:
    return plus_minus(value.value, value.error)


def _numbers(told: list[Similarities], tell: Callable[[Similarities], str]) -> str:
    """One sentence for all problems."""
    if not told:
        return "No solver gave influences."
    return f"{'; '.join(f'{found.problem}: {tell(found)}{_unknown(found)}' for found in told)}."


def _unknown(found: Similarities) -> str:
    return ", the solver’s error unknown" if np.isnan(cosine_bound(found)).any() else ""
