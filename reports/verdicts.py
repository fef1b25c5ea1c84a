"""Did theory hold? Every row of a run against what the spectrum promised before it ran."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from reports.formats import number, setting, times
from reports.rows import KEY
from solvers.theory import (
    MeanSquare,
    bias_from_rhs,
    cg_energy_error,
    cg_steps,
    identity_error,
    largest_mean_step,
    rate,
    second_moment_bound,
)

HOLDS, VIOLATED, NO_PROMISE, SILENT = "holds", "violated", "no promise", ""

# A predicted root mean square is no bound: it holds if a run ends within this factor of it, and so does a
# solver's own estimate of its error.
WITHIN = 2.0
# Growth of the mean from which on a solver that was to diverge must have done so.
GROWTH = 1e6
# Rounding adds about this many units times κ to an error.
ROUNDINGS = 10.0
_UNITS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}

Settings = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What theory promised of one row, and what came of it.

    `kind` is "bound" (of the error, the energy error or the steps, with what rounding adds), "divergence" or
    "prediction" (of LiSSA itself, which is no bound). `estimated` is the error that the solver claims to have
    ended with, `honest` whether the true one is within WITHIN times that.
    """

    verdict: str = SILENT
    kind: str = ""
    quantity: str = ""
    promised: float = math.nan
    measured: float = math.nan
    reason: str = ""
    estimated: float = math.nan
    honest: bool | None = None

    @property
    def factor(self) -> float:
        """promised/measured: above 1 the promise was kept with that much to spare; NaN where no number is."""
        if self.measured == 0:
            return math.inf if self.promised > 0 else math.nan
        return self.promised / self.measured


def verdicts(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per clean cell: its key, the fields of its Verdict, and `factor`.

    `verdict` is "holds", "violated", "no promise" where theory does not cover the settings, and "" where it
    has nothing to say or a fact it needs is unknown. The worst right-hand side counts. A mini-batch bound is
    one of the root mean square over draws: each right-hand side exceeds it c times with a chance of at most
    1/c².
    """
    found = [judge_cell({str(name): value for name, value in row.items()}) for _, row in cells.iterrows()]
    columns = [*Verdict.__dataclass_fields__, "factor"]
    rows = pd.DataFrame([asdict(each) | {"factor": each.factor} for each in found], columns=columns)
    key = cells[KEY].reset_index(drop=True).astype({"seed": "int64"})
    return pd.concat([key, rows], axis=1)


def judge_cell(row: dict[str, Any]) -> Verdict:
    """The verdict on one clean cell."""
    judge = _JUDGES.get(row["solver_name"])
    if judge is None or row["status"] in ("skipped", "failed", "breakdown"):
        return Verdict()
    needed = ("lambda_max", "lambda_min", "damping", "steps")
    if any(math.isnan(row[name]) for name in needed) or row["dtype"] not in _UNITS:
        return Verdict()
    return judge(row, _parsed(row["solver_settings"]))


def summary(found: pd.DataFrame) -> str:
    """The verdicts counted, in a sentence or two; "" where theory was silent throughout."""
    promises = found[found["verdict"].isin([HOLDS, VIOLATED])]
    bounds = promises[promises["kind"] != "prediction"]
    predictions = promises[promises["kind"] == "prediction"]
    sentences = []
    if len(bounds):
        slack = bounds["factor"].dropna()
        told = f"; median slack {times(slack.median())}" if len(slack) else ""
        sentences.append(f"Theory’s bounds hold in {_share(bounds)} where it makes a promise{told}.")
    if len(predictions):
        sentences.append(
            f"LiSSA’s own prediction of its error is within a factor of {WITHIN:g} in {_share(predictions)}."
        )
    estimates = found[found["honest"].notna()]
    if len(estimates):
        honest = int(estimates["honest"].astype(bool).sum())
        sentences.append(f"Its own estimate of its error is honest in {honest} of {_rows(len(estimates))}.")
    left = int((found["verdict"] == NO_PROMISE).sum())
    if left:
        sentences.append(f"Theory promises nothing for the settings of {_rows(left)}.")
    return " ".join(sentences)


def _neumann(row: dict[str, Any], settings: Settings) -> Verdict:
    step_size = _number(settings.get("step_size"))
    # The series begins at 0, from where the relative error is 1.
    return Verdict() if step_size is None else _on_all_data(row, step_size, start=1.0)


def _lissa(row: dict[str, Any], settings: Settings) -> Verdict:
    told = _parsed(row["diagnostics"])
    if "auto" in settings.values():
        if "predicted_error" in told:
            return _predicted(row, told)
        settings = settings | {name: told.get(name) for name in ("step_size", "batch_size", "num_steps")}
    step_size, batch = _number(settings.get("step_size")), settings.get("batch_size")
    if step_size is None:
        return Verdict()
    from_rhs = settings.get("start", "rhs") == "rhs"
    start = row["start_error_rhs"] if from_rhs else 1.0
    if batch == "full":
        return _on_all_data(row, step_size, start, from_rhs)
    batch_size = _number(batch)
    if batch_size is None:
        return Verdict()
    if step_size >= _edge(row):
        return _divergence(row, step_size, start)
    second_moment = second_moment_bound(row["lambda_max"], row["damping"], row["noise_constant"], batch_size)
    theory = MeanSquare(step_size, _smallest(row), second_moment, row["noise_at_solution"] / batch_size)
    if math.isnan(second_moment) or math.isnan(theory.noise) or math.isnan(start):
        return Verdict()
    edge = f"2/L_b = {number(2 / second_moment)} for b = {batch_size:g}"
    if not theory.stable:
        return _no_promise(row, f"η = {_short(step_size)} is not below {edge}")
    promised = theory.error(start, int(row["steps"]))
    reason = f"η = {_short(step_size)} is below {edge}; noise alone ends at ≤ {number(theory.floor)}"
    return _bound(row, promised, reason)


def _predicted(row: dict[str, Any], told: Settings) -> Verdict:
    """LiSSA that chose its settings says what error it expected, and what it believes to have reached."""
    predicted, measured = _number(told["predicted_error"]), _measured(row, "error")
    if predicted is None or math.isnan(measured):
        return Verdict()
    verdict = HOLDS if measured <= WITHIN * predicted else VIOLATED
    chosen = [(sign, told.get(name)) for sign, name in (("η", "step_size"), ("b", "batch_size"))]
    reason = "chose " + ", ".join(f"{sign} = {_plain(value)}" for sign, value in chosen)
    found = Verdict(verdict, "prediction", "error", predicted, measured, reason)
    estimated = _number(told.get("estimated_error"))
    if estimated is None:
        return found
    honest = measured <= WITHIN * estimated
    claim = f"{reason}; believes to have ended at {number(estimated)}"
    return replace(found, reason=claim, estimated=estimated, honest=honest)


def _cg(row: dict[str, Any], settings: Settings) -> Verdict:
    tolerance = _number(settings.get("tolerance"))
    if tolerance is None or _smallest(row) <= 0:
        return Verdict()
    condition, steps = _condition(row), int(row["steps"])
    # A column within its tolerance takes no more steps: then ‖e‖ ≤ √κ · tolerance in the energy norm.
    promised = max(cg_energy_error(condition, steps), math.sqrt(condition) * tolerance)
    reason = f"2((√κ − 1)/(√κ + 1))ᵗ with κ = {number(condition)}, t = {steps:,}"
    return _bound(row, promised, reason, "energy_error")


def _scipy_cg(row: dict[str, Any], settings: Settings) -> Verdict:
    """It counts the steps of all columns together, so that only their sum can be judged."""
    tolerance, columns = _number(settings.get("tolerance")), row["num_columns"]
    if tolerance is None or _smallest(row) <= 0 or math.isnan(columns):
        return Verdict()
    condition = _condition(row)
    if tolerance <= _rounding(row):
        return _no_promise(row, f"rounding, not κ, decides when {setting(tolerance)} is reached", "steps")
    # ‖r‖/‖b‖ is at most √κ times the relative energy error.
    promised = columns * cg_steps(condition, tolerance / math.sqrt(condition))
    steps = row["steps"]
    reason = f"steps that bring {columns:g} columns to {setting(tolerance)} with κ = {number(condition)}"
    if row["status"] != "converged" and steps < promised:
        return _no_promise(row, f"ended before the {promised:,.0f} {reason}", "steps")
    verdict = HOLDS if row["status"] == "converged" and steps <= promised else VIOLATED
    return Verdict(verdict, "bound", "steps", promised, steps, reason)


def _identity(row: dict[str, Any], settings: Settings) -> Verdict:
    if row["lambda_min"] < -1e-9 * row["lambda_max"]:
        return Verdict()
    # The bound is relative to ‖b‖/λ.
    promised = identity_error(row["lambda_max"], row["damping"]) / row["solution_ratio"]
    return _bound(row, promised, "λ_max/(λ_max + λ) of ‖b‖/λ")


def _on_all_data(row: dict[str, Any], step_size: float, start: float, from_rhs: bool = False) -> Verdict:
    """Steps on all data from a relative error of `start`; `from_rhs` where that is the error of b/λ."""
    if step_size >= _edge(row):
        return _divergence(row, step_size, start)
    largest, damping, steps = row["lambda_max"], row["damping"], int(row["steps"])
    a_step = rate(step_size, row["lambda_min"], largest, damping)
    promised = a_step**steps * start
    reason = f"falls by {a_step:.6g} a step from {number(start)}"
    if from_rhs and row["lambda_min"] >= 0 and step_size <= 1 / (largest + damping):
        bias = bias_from_rhs(step_size, damping, steps) / row["solution_ratio"]
        if bias < promised:
            promised, reason = bias, f"bias from b/λ after ηλT = {number(step_size * damping * steps)}"
    return _bound(row, promised, reason)


def _bound(row: dict[str, Any], promised: float, reason: str, quantity: str = "error") -> Verdict:
    measured = _measured(row, quantity)
    allowed = promised + _rounding(row) + _difference(row)
    if math.isnan(allowed) or math.isnan(measured):
        return Verdict()
    verdict = HOLDS if measured <= allowed else VIOLATED
    return Verdict(verdict, "bound", quantity.replace("_", " "), allowed, measured, reason)


def _no_promise(row: dict[str, Any], reason: str, quantity: str = "error") -> Verdict:
    """What was measured all the same."""
    return Verdict(NO_PROMISE, quantity=quantity, measured=_measured(row, quantity), reason=reason)


def _divergence(row: dict[str, Any], step_size: float, start: float) -> Verdict:
    """From η = 2/(λ_max + λ) on, or where H + λI is indefinite, the mean grows from almost every start."""
    growth = rate(step_size, row["lambda_min"], row["lambda_max"], row["damping"])
    measured = _measured(row, "error")
    reason = f"diverges: the mean grows by {growth:.6g} a step"
    if row["status"] == "diverged" or measured > max(1.0, start):
        return Verdict(HOLDS, "divergence", "error", measured=measured, reason=reason)
    if math.isnan(measured) or row["steps"] * math.log(growth) < math.log(GROWTH):
        return _no_promise(row, f"{reason}, and {row['steps']:,.0f} steps are too few to tell")
    return Verdict(VIOLATED, "divergence", "error", measured=measured, reason=reason)


def _edge(row: dict[str, Any]) -> float:
    """The step size from which on the mean diverges; 0 where it always does."""
    return largest_mean_step(row["lambda_max"], row["damping"]) if _smallest(row) > 0 else 0.0


def _smallest(row: dict[str, Any]) -> float:
    return row["lambda_min"] + row["damping"]


def _condition(row: dict[str, Any]) -> float:
    return (row["lambda_max"] + row["damping"]) / _smallest(row)


def _rounding(row: dict[str, Any]) -> float:
    """What rounding leaves of any iteration, relative to the solution."""
    return ROUNDINGS * _UNITS[row["dtype"]] * _condition(row)


def _difference(row: dict[str, Any]) -> float:
    """What products of another precision than the reference's move the solution by, to first order."""
    error = row["product_error"]
    return 0.0 if math.isnan(error) else error / _smallest(row)


def _measured(row: dict[str, Any], quantity: str) -> float:
    """The error; ∞ of a run that ended in no numbers, where the problem has a reference."""
    value = row[quantity]
    lost = math.isnan(value) and row["status"] == "diverged" and not math.isnan(row["reference_residual"])
    return math.inf if lost else value


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and value == value else None


def _short(value: float) -> str:
    """Three digits of a setting, which may have been computed."""
    return setting(float(f"{value:.3g}"))


def _plain(value: Any) -> str:
    return str(value) if _number(value) is None else _short(float(value))


def _parsed(text: str) -> Settings:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _share(promises: pd.DataFrame) -> str:
    return f"{int((promises['verdict'] == HOLDS).sum())} of {_rows(len(promises))}"


_JUDGES: dict[str, Callable[[dict[str, Any], Settings], Verdict]] = {
    "neumann": _neumann,
    "lissa": _lissa,
    "cg": _cg,
    "scipy_cg": _scipy_cg,
    "identity": _identity,
}
