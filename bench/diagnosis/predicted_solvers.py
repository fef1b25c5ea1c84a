"""What each solver is predicted to need for a given error, from a pilot on some right-hand sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace

import torch

from bench.diagnosis.lissa_settings import JudgedSettings, Settings, judge
from problems import Problem
from problems.spectrum import Spectrum
from solvers import theory, tuned_lissa
from solvers.exact import Exact
from solvers.krylov_prediction import CGHistory
from solvers.measured import (
    MOST_PRODUCTS,
    NOISE_STEPS,
    TRACE_PRODUCTS,
    Measured,
    PapersMeasurements,
    sample_of,
)
from solvers.prediction import RightHandSides, Schedule, relative
from solvers.probe import PROBE_COLUMNS, PROBE_STEPS
from solvers.solver import Breakdown
from solvers.tuning import MOST_STEPS, Plan, Wanted, make_plan, sampled_plan

MEASURED = "measured in the pilot"
FROM_MEASURE = "from b's spectral measure"
EXTRAPOLATED = "extrapolated from the pilot"
BOUND = "bound"
COUNTED = "by count"
EXACT_WAYS = {"cholesky": "Cholesky", "eigen": "eigenvectors", "dual": "dual"}
NONE = "not predicted"
# The error of CG up to which the measure that it made is taken for b's.
TRUSTED = 0.5
# What CG's tolerance is multiplied by where not all right-hand sides were piloted.
MARGIN = 0.7
UNSEEN = "the pilot has not seen b's small eigenvalues"
TUNED = "LiSSA, self-tuned"


@dataclass(frozen=True)
class PredictedSolver:
    """A solver's cost and error before it runs; work in gradient equivalents, set-up apart.

    `specification` is what to write after -s. `steps`, `error` and `reaches` are None where nothing is
    predicted, `error` ∞ where it is not known to be stable; `basis` says what the prediction rests on.
    """

    name: str
    specification: str
    steps: int | None
    setup_work: float
    solve_work: float | None
    error: float | None
    reaches: bool | None
    basis: str
    note: str = ""

    @property
    def work(self) -> float | None:
        """Set-up and solve."""
        return None if self.solve_work is None else self.setup_work + self.solve_work


@dataclass(frozen=True)
class Piloted:
    """What a pilot found of H and of some right-hand sides.

    `sides` are measured by more steps than self-tuned LiSSA's own pilot takes; `histories` are CG's.
    `columns` is the cost of a product with k columns over all data; `pilot_products` how many products with
    all columns a pilot takes, `share` what part of the data it is made on; `smallest` is what λ_min(H) is
    for certain; `unseen` the error that CG may have had left when it ended.
    """

    problem: Problem
    target: float
    spectrum: Spectrum
    measured: Measured
    sides: RightHandSides
    histories: tuple[CGHistory, ...]
    columns: Callable[[int], float]
    pilot_products: float
    share: float
    smallest: float
    unseen: float

    @property
    def trusted(self) -> bool:
        """Whether the pilot has seen enough of b for predictions from its measure."""
        return self.unseen <= TRUSTED

    @property
    def product(self) -> float:
        """Cost of a product with all right-hand sides over all data."""
        return self.columns(self.problem.num_columns)

    def judge(self, name: str, schedule: Schedule, note: str = "") -> JudgedSettings:
        """Theory's verdict on LiSSA with `schedule`."""
        data = self.problem.operator
        return judge(
            name, schedule, self.measured, self.sides, data, self.product, self.target, self.smallest, note
        )


def lissa_tuned(piloted: Piloted) -> tuple[PredictedSolver, Plan | None]:
    """LiSSA as it tunes itself, on mini-batches or on all data, whichever it will choose."""
    data, target = piloted.problem.operator, piloted.target
    specification = f"lissa:target={target:g}"
    setup = piloted.share * _lissa_setup(piloted)
    if not piloted.trusted:
        return _worst_case(piloted, specification, setup), None
    try:
        plan = make_plan(piloted.measured, piloted.sides, Wanted(target, None, None, None), data)
    except Breakdown as reason:
        row = PredictedSolver(TUNED, specification, None, setup, None, None, False, FROM_MEASURE, str(reason))
        return row, None
    schedule = plan.schedule
    pilot = _pilot_share(piloted) * piloted.pilot_products * piloted.product
    probe = 0.0
    if schedule.batch_size is None:
        other = sampled_plan(piloted.measured, piloted.sides, Wanted(target, None, None, None), data)
        ways = f"all data: {plan.epochs:.3g} passes; mini-batches " + (
            f"of {other.schedule.batch_size} would take {other.epochs:.3g}" if other else "do not get there"
        )
    else:
        probe = PROBE_STEPS * schedule.batch_size / data.num_examples * piloted.columns(PROBE_COLUMNS)
        full = f"{plan.full_epochs:.3g}" if math.isfinite(plan.full_epochs) else "more steps than are tried"
        ways = f"mini-batches of {schedule.batch_size}: {plan.epochs:.3g} passes; all data would take {full}"
    note = f"η = {schedule.step_size:.3g}, T = {schedule.last:,}, {schedule.chains} chains; {ways}"
    if schedule.chains == 1:
        note = note.replace(", 1 chains", "")
    row = PredictedSolver(
        TUNED,
        specification,
        schedule.last,
        setup,
        pilot + probe + plan.epochs * piloted.product,
        plan.error,
        plan.error <= target,
        FROM_MEASURE,
        f"{note}; {pilot:.3g} of the work is its pilot",
    )
    return row, plan


def lissa_by_the_paper(piloted: Piloted) -> tuple[PredictedSolver, JudgedSettings]:
    """LiSSA with η = 1/(λ_max + λ), b = Tr(H)/(λ_max + λ) and ηλT = 2.25."""
    spectrum = piloted.spectrum
    measured = PapersMeasurements(spectrum.extremes.largest.value, max(spectrum.trace.value, 0.0))
    judged = piloted.judge("by the paper's rule", measured.schedule(piloted.measured.damping))
    setup = (
        piloted.share * (min(MOST_PRODUCTS, spectrum.extremes.products) + TRACE_PRODUCTS) * piloted.columns(1)
    )
    return _of_judged(piloted, judged, "LiSSA, the paper's rule", "lissa:rule=paper", setup), judged


def lissa_as_set(piloted: Piloted, judged: JudgedSettings, settings: Settings) -> PredictedSolver:
    """LiSSA with a user's settings; what it chooses itself costs it measurements and a pilot."""
    given = {name: value for name, value in asdict(settings).items() if value is not None}
    written = ",".join(f"{name}={value}" for name, value in given.items())
    if len(given) == len(fields(settings)):
        return _of_judged(piloted, judged, "LiSSA, your settings", f"lissa:{written}", 0.0)
    row = _of_judged(
        piloted,
        judged,
        "LiSSA, your settings",
        f"lissa:{written},target={piloted.target:g}",
        piloted.share * _lissa_setup(piloted),
    )
    assert row.solve_work is not None
    pilot = _pilot_share(piloted) * piloted.pilot_products * piloted.product
    return replace(row, solve_work=row.solve_work + pilot)


def conjugate_gradients(piloted: Piloted) -> PredictedSolver:
    """CG: from the pilot where that has come far enough, else extrapolated, at most theory's bound."""
    target = piloted.target
    known = [history.steps_to(target) for history in piloted.histories]
    condition = _condition(piloted)
    # ‖e‖ ≤ ‖e‖_A/√λ_min and ‖u*‖_A ≤ √λ_max ‖u*‖ of A = H + λI.
    # In exact arithmetic CG ends after p steps.
    bound = min(theory.cg_steps(condition, target / math.sqrt(condition)), piloted.problem.size)
    note = f"at most {bound:,} for any right-hand side, κ ≤ {condition:.3g}"
    if all(step is not None for step in known):
        steps = max((step for step in known if step is not None), default=0)
        # The residual with which CG arrives there is the tolerance to ask for.
        met = [
            float(history.residuals[step])
            for history, step in zip(piloted.histories, known, strict=True)
            if step
        ]
        error = max(
            float(history.errors[step or 0]) for history, step in zip(piloted.histories, known, strict=True)
        )
        basis = MEASURED
    else:
        expected = max(
            float(step) if step is not None else history.extrapolated(target)
            for history, step in zip(piloted.histories, known, strict=True)
        )
        # A rate that is seen before small eigenvalues are does not last.
        steps = math.ceil(min(expected, bound)) if piloted.trusted else bound
        basis = BOUND if steps == bound else EXTRAPOLATED
        # ‖u − u*‖ ≤ ‖r‖/λ.
        certain = (
            target * piloted.measured.damping * relative(piloted.sides.solution_norm, piloted.sides.norm)
        )
        met = [float(value) for value in certain if value > 0]
        error = target
        note = f"the pilot ended after {max(len(h.errors) for h in piloted.histories) - 1} steps; {note}"
    # Of a right-hand side that was not piloted the same residual may mean a larger error.
    margin = 1.0 if len(known) == piloted.problem.num_columns else MARGIN
    tolerance = _rounded_down(margin * min(met, default=1e-6))
    return PredictedSolver(
        "CG",
        f"cg:tolerance={tolerance:g}",
        steps,
        0.0,
        # It ends by computing the true residual.
        (steps + 1) * piloted.product,
        error,
        True,
        basis,
        note,
    )


def neumann(piloted: Piloted) -> PredictedSolver:
    """Neumann's series, Richardson iteration from 0 on all data, with η = 1/(λ_max + λ)."""
    sides = piloted.sides
    step = 1 / (piloted.measured.largest + piloted.measured.damping)
    from_zero = RightHandSides(sides.measure, sides.noise, sides.damping, "zero")

    def error(steps: int) -> float:
        return float(from_zero.bias(Schedule(step, None, steps - 1, steps)).max())

    # Within the target for certain: the error falls by 1 − ηλ a step at least.
    slowest = 1 - step * max(sides.damping + piloted.smallest, 1e-3 * sides.damping)
    high = max(1, theory.neumann_steps(slowest, piloted.target))
    low = 0 if piloted.trusted else high - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if error(middle) <= piloted.target else (middle, high)
    return PredictedSolver(
        "Neumann series",
        f"neumann:step_size={step:.6g},num_steps={high},tolerance=1e-12",
        high,
        0.0,
        high * piloted.product,
        error(high) if piloted.trusted else piloted.target,
        True,
        FROM_MEASURE if piloted.trusted else BOUND,
        f"η = 1/(λ_max + λ) = {step:.3g}" + ("" if piloted.trusted else f"; {UNSEEN}"),
    )


def identity(piloted: Piloted) -> PredictedSolver:
    """x = b/λ, which costs nothing."""
    sides = piloted.sides
    left = sides.measure.integral(lambda values: (values / (values + sides.damping) / sides.damping) ** 2)
    error = float(relative(left.sqrt(), sides.solution_norm).max())
    if not piloted.trusted:
        return PredictedSolver("identity, b/λ", "identity", 0, 0.0, 0.0, None, False, BOUND, UNSEEN)
    return PredictedSolver(
        "identity, b/λ", "identity", 0, 0.0, 0.0, error, error <= piloted.target, FROM_MEASURE
    )


def exact(problem: Problem) -> PredictedSolver:
    """A dense solution by the way that it would choose, where one fits into memory."""
    solver = Exact()
    reason, way = solver.skip(problem), solver.chosen(problem)
    if reason or way is None:
        return PredictedSolver("exact", "exact", None, 0.0, None, None, False, COUNTED, reason or "")
    note = f"{way.bytes / 2**20:.3g} MiB; its algebra counts by its multiplications"
    name = f"exact ({EXACT_WAYS[way.name]})"
    return PredictedSolver(name, "exact", 1, way.setup_work, way.solve_work, 0.0, True, COUNTED, note)


def _worst_case(piloted: Piloted, specification: str, setup: float) -> PredictedSolver:
    """Of LiSSA on all data from b/λ, by theory: no b needs more steps."""
    sides, target = piloted.sides, piloted.target
    damping, step = sides.damping, 1 / (piloted.measured.largest + sides.damping)
    # CG's measure makes ‖u*‖ rather too small.
    allowed = target * float((damping * relative(sides.solution_norm, sides.norm)).min())
    high = max(1, math.ceil(math.log(1 / allowed) / (step * damping)))
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        within = theory.bias_from_rhs(step, damping, middle) <= allowed
        low, high = (low, middle) if within else (middle, high)
    most = f"LiSSA may take up to {high:.2g} steps over all data at λ = {damping:g}; {UNSEEN}"
    if high > MOST_STEPS:
        most += ": use cg, precondition, or raise damping"
    feasible = high <= MOST_STEPS
    return PredictedSolver(
        TUNED,
        specification,
        high,
        setup,
        high * piloted.product,
        target if feasible else None,
        feasible,
        BOUND,
        most,
    )


def _pilot_share(piloted: Piloted) -> float:
    """The part of the data that self-tuned LiSSA makes its pilot on."""
    sample = sample_of(piloted.problem.operator, torch.Generator(), tuned_lissa.pilot_size(piloted.measured))
    return sample.num_draws / piloted.problem.operator.num_draws


def _lissa_setup(piloted: Piloted) -> float:
    """At most: λ_max by Lanczos, R by LOBPCG, of which a step is a product and two of each example."""
    extremes = min(MOST_PRODUCTS, piloted.spectrum.extremes.products)
    return (extremes + 3 * NOISE_STEPS) * piloted.columns(1)


def _of_judged(
    piloted: Piloted, judged: JudgedSettings, name: str, specification: str, setup: float
) -> PredictedSolver:
    failed = [condition for condition in judged.conditions if not condition.met]
    note = f"η = {judged.step_size:.3g}, b = {judged.batch_size}, T = {judged.num_steps:,}"
    if failed:
        note += f"; {failed[0].name}: {failed[0].verdict}"
    return PredictedSolver(
        name,
        specification,
        judged.num_steps,
        setup,
        judged.work,
        judged.error,
        judged.error <= piloted.target and piloted.trusted,
        FROM_MEASURE,
        note if piloted.trusted else f"{note}; {UNSEEN}",
    )


def _condition(piloted: Piloted) -> float:
    """Upper bound of κ of H + λI."""
    damping = piloted.measured.damping
    return (piloted.measured.largest + damping) / (piloted.smallest + damping)


def _rounded_down(value: float) -> float:
    """Two digits are enough for a tolerance."""
    if not value > 0:
        return 1e-6
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / scale) * scale:.2g}")
