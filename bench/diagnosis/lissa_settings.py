"""Theory's verdict on LiSSA's settings: each condition with its limit, and the error to be expected."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from problems.operators.base import CurvatureOperator
from solvers import theory
from solvers.measured import Measured
from solvers.prediction import RightHandSides, Schedule
from solvers.tuning import Wanted, epochs_of, make_plan, noise_excess

# Late enough that nothing is left of the start: the noise alone.
_FOREVER = 10**9


@dataclass(frozen=True)
class Settings:
    """LiSSA as a user sets it; None is left to be chosen. `batch_size` counts units, or is "full"."""

    step_size: float | None = None
    batch_size: int | str | None = None
    num_steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("step_size", "num_steps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be a finite number > 0")
        if isinstance(self.batch_size, str) and self.batch_size != "full":
            raise ValueError(f'batch_size is {self.batch_size!r}; it must be a number of examples, or "full"')
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError(f'batch_size is {self.batch_size}; it must be at least 1, or "full"')

    @property
    def given(self) -> bool:
        """Whether anything was set."""
        return any(value is not None for value in (self.step_size, self.batch_size, self.num_steps))


@dataclass(frozen=True)
class Condition:
    """One condition of theory: `value` against `limit`; kept by `factor` ≥ 1, or missed by one < 1."""

    name: str
    formula: str
    value: float
    limit: float
    met: bool
    factor: float
    verdict: str


@dataclass(frozen=True)
class JudgedSettings:
    """Settings of LiSSA with theory's conditions, and what is predicted of them.

    `contraction` is ρ, the least share of the mean-square error that a step takes away; `time` is ηλT.
    `floor` is the noise that stays for T → ∞; `bias`, `noise`, `error` what is left after T steps, all
    relative to ‖u*‖ and of the worst right-hand side piloted; ∞ where the iteration is not known to be
    stable. `work` in gradient equivalents, without set-up.
    """

    name: str
    step_size: float
    batch_size: int | str
    num_steps: int
    chains: int
    second_moment: float
    contraction: float
    time: float
    floor: float
    bias: float
    noise: float
    error: float
    work: float
    conditions: tuple[Condition, ...]
    note: str = ""


def judge(
    name: str,
    schedule: Schedule,
    measured: Measured,
    sides: RightHandSides,
    data: CurvatureOperator,
    product: float,
    target: float,
    smallest: float = 0.0,
    note: str = "",
) -> JudgedSettings:
    """What theory says of `schedule`.

    `product` is the cost of a product with all right-hand sides, `smallest` what λ_min(H) is for certain.
    """
    whole = measured.largest + measured.damping
    second = whole if schedule.batch_size is None else measured.second_moment(schedule.batch_size)
    step = schedule.step_size
    moment = theory.MeanSquare(step, smallest + measured.damping, second, 0.0)
    mean_limit, square_limit = theory.largest_mean_step(measured.largest, measured.damping), 2 / second
    bias = noise = floor = math.inf
    if step < mean_limit:
        bias = float(sides.bias(schedule).max())
    if step < min(mean_limit, square_limit):
        excess = 0.0 if schedule.batch_size is None else noise_excess(step * second)
        noise = excess * float(sides.deviation(schedule).max())
        forever = replace(schedule, first=_FOREVER, last=_FOREVER + schedule.last - schedule.first)
        floor = excess * float(sides.deviation(forever).max())
    error = math.hypot(bias, noise)
    conditions = (
        _below("converges in expectation", "η < 2/(λ_max + λ)", step, mean_limit, "diverges for certain"),
        _below(
            "converges in mean square",
            "η < 2/L_b, sufficient",
            step,
            square_limit,
            "may diverge on mini-batches: the condition is sufficient, within a factor of two of necessary",
        ),
        _below("ends within the target", "predicted error ≤ target", error, target, "ends too far off"),
    )
    return JudgedSettings(
        name,
        step,
        "full" if schedule.batch_size is None else schedule.batch_size,
        schedule.last,
        schedule.chains,
        second,
        moment.contraction,
        step * measured.damping * schedule.last,
        floor,
        bias,
        noise,
        error,
        product * epochs_of(data, schedule, measured),
        conditions,
        note,
    )


def completed(
    settings: Settings, measured: Measured, sides: RightHandSides, data: CurvatureOperator, target: float
) -> tuple[Schedule, str]:
    """The schedule that LiSSA runs with `settings`, and what is said of the part it chooses itself.

    All three set: the last iterate of one chain. Breakdown where what is set admits no schedule.
    """
    batch = settings.batch_size
    if None not in (settings.step_size, batch, settings.num_steps):
        assert settings.step_size is not None
        assert settings.num_steps is not None
        size = batch if isinstance(batch, int) else None
        return Schedule(settings.step_size, size, settings.num_steps - 1, settings.num_steps), ""
    wanted = Wanted(
        target,
        settings.step_size,
        batch if isinstance(batch, int) else "full" if batch else None,
        settings.num_steps,
    )
    missing = [name for name in ("step_size", "batch_size", "num_steps") if getattr(settings, name) is None]
    return make_plan(measured, sides, wanted, data).schedule, f"{', '.join(missing)} as LiSSA chooses them"


def _below(name: str, formula: str, value: float, limit: float, otherwise: str) -> Condition:
    met = value <= limit if "≤" in formula else value < limit
    factor = limit / value if value > 0 else math.inf
    if met:
        verdict = "met" if math.isinf(factor) else f"met, {factor:.3g} times below"
    elif math.isinf(value):
        verdict = f"not met: {otherwise}"
    else:
        verdict = f"not met, {1 / factor:.3g} times above: {otherwise}"
    return Condition(name, formula, value, limit, met, factor, verdict)
