"""diagnose(): what a problem's spectrum is, what theory says of settings for it, and which solver to run."""

from __future__ import annotations

import shlex

from bench.diagnosis import predicted_solvers as predicted
from bench.diagnosis.advice import indefinite, of_examples, of_rounding, order, recommend
from bench.diagnosis.lissa_settings import JudgedSettings, Settings, completed
from bench.diagnosis.measuring import Measuring, NotDefinite, OnProgress
from bench.diagnosis.predicted_solvers import Piloted, PredictedSolver
from bench.diagnosis.result import (
    Diagnosis,
    density_of,
    quantities,
)
from problems import Problem
from problems.spectrum.summary import SMALLEST_BUDGET
from solvers.solver import Breakdown

DEFAULT_BUDGET = 200.0


def check(budget: float, target: float) -> None:
    """Raise ValueError for what no problem can be diagnosed with."""
    if not 0 < target < 1:
        raise ValueError(f"target is {target}; a relative error between 0 and 1 is needed")
    if not budget >= SMALLEST_BUDGET:
        raise ValueError(
            f"budget is {budget:g} gradient equivalents; at least {SMALLEST_BUDGET:g} are needed for a "
            f"spectrum, and more for a pilot ({DEFAULT_BUDGET:g} by default)"
        )


def diagnose(
    problem: Problem,
    *,
    specification: str = "",
    budget: float = DEFAULT_BUDGET,
    target: float = 0.05,
    settings: Settings | None = None,
    seed: int = 0,
    options: str = "",
    on_progress: OnProgress | None = None,
) -> Diagnosis:
    """Measure H, judge LiSSA's settings by theory, predict each solver's cost, and recommend one.

    `budget` is in gradient equivalents over the data that are measured on: all, or 2048 draws of them.
    `target` is the relative error ‖x − x*‖/‖x*‖ wanted of the worst column; `settings` are LiSSA's as the
    user has them, to be judged. `specification` is how `ihvp-bench run -p` names the problem, `options` what
    else belongs to that command. `on_progress` is told what is done next and what share of the budget is
    spent. ValueError for a budget too small for any estimate and a target outside (0, 1).
    """
    check(budget, target)
    work = Measuring(problem, budget, seed, on_progress)
    spectrum = work.spectrum()
    example = None
    if spectrum.heterogeneity is not None:
        example = int(work.indices[spectrum.heterogeneity.example])
    warnings = of_examples(spectrum, example, work.operator.num_draws)
    definite = work.definite(spectrum)
    judged: list[JudgedSettings] = []
    rows: list[PredictedSolver] = []
    if definite:
        try:
            piloted = work.pilot(spectrum, target)
            judged, rows, said = _predict(piloted, settings)
            warnings += said
        except NotDefinite as reason:
            definite = False
            warnings.append(str(reason))
    if not definite:
        judged, rows = [], [work.minres(target)]
    if not problem.operator.is_psd:
        warnings.insert(0, indefinite(work.lowest, work.lowest_residual, problem.damping, definite))
    rows.sort(key=order)
    command = f"ihvp-bench run -p {shlex.quote(specification)}{f' {options}' if options else ''}"
    recommendation = recommend(rows, definite, target, command)
    warnings += of_rounding(problem, spectrum, recommendation)
    return Diagnosis(
        work.subject(specification),
        target,
        definite,
        quantities(spectrum, problem.damping, problem.operator.is_psd, example, work.lowest),
        density_of(spectrum),
        tuple(judged),
        tuple(rows),
        recommendation,
        tuple(warnings),
        tuple(work.notes(definite)),
        work.account(),
    )


def _predict(
    piloted: Piloted, settings: Settings | None
) -> tuple[list[JudgedSettings], list[PredictedSolver], list[str]]:
    """LiSSA's settings judged, a row for each solver, and what to warn of."""
    judged, rows, warnings = [], [], []
    data = piloted.problem.operator
    if settings is not None and settings.given:
        try:
            schedule, note = completed(settings, piloted.measured, piloted.sides, data, piloted.target)
            yours = piloted.judge("yours", schedule, note)
            judged.append(yours)
            rows.append(predicted.lissa_as_set(piloted, yours, settings))
            warnings += [
                f"your settings: {condition.name}: {condition.verdict}"
                for condition in yours.conditions
                if not condition.met
            ][:1]
        except Breakdown as reason:
            warnings.append(f"your settings: {reason}")
    tuned, plan = predicted.lissa_tuned(piloted)
    rows.append(tuned)
    if tuned.reaches is False:
        warnings.append(tuned.note)
    if plan is not None:
        judged.append(piloted.judge("self-tuned", plan.schedule))
    row, papers = predicted.lissa_by_the_paper(piloted)
    rows.append(row)
    judged.append(papers)
    rows += [
        predicted.conjugate_gradients(piloted),
        predicted.neumann(piloted),
        predicted.identity(piloted),
        predicted.exact(piloted.problem),
    ]
    return judged, rows, warnings
