"""The study of other libraries: its settings and what it reads off a solve, with none of them installed."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor

import problems
import solvers
from bench import study, study_runner
from bench.experiments import peers
from bench.experiments.peers import Peers, Prepared
from bench.reproductions import Reproduction
from bench.store import Store
from problems import Problem, ground_truth
from problems.specification import parse
from solvers import Divergence, Iterate, Record, Solution, Solver, Status
from solvers.cg import ConjugateGradient
from solvers.minres import MINRES
from solvers.peers import library
from solvers.peers.advice import Advice
from tests.conftest import dense_problem

SMALL: dict[str, Any] = {"training_size": 40, "pooling": 4, "num_queries": 3, "damping": 0.02}
TEXT = "softmax_regression:" + ",".join(f"{name}={setting}" for name, setting in SMALL.items())
TARGETS = (1e-2, 1e-4)
Advise = Callable[[Problem, float], Advice]
STUDY = Peers(libraries=("scipy",), ours=("lissa:target={target}", "cg", "exact"), max_seconds=10.0)


def quiet(what: str, share: float) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def problem() -> Problem:
    return problems.load("softmax_regression", **SMALL)


@pytest.fixture(scope="module")
def prepared(problem: Problem) -> Prepared:
    return STUDY.prepare(problem, quiet)


@pytest.fixture(scope="module")
def indefinite() -> Problem:
    """H has negative eigenvalues, of 14, and H + λI is positive definite."""
    return spectral(torch.linspace(-1, 4, 14, dtype=torch.float64), damping=1.05)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def missing(each: library.Library) -> str | None:
        return None if each is peers.SCIPY else f"{each.distribution} is not installed: here"

    monkeypatch.setattr(library, "_missing", missing)
    peers._versions.cache_clear()
    yield
    peers._versions.cache_clear()


@pytest.fixture(scope="module")
def advise() -> Advise:
    return functools.cache(peers._advice)


def spectral(eigenvalues: Tensor, damping: float) -> Problem:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(noise).Q
    matrix = rotation @ eigenvalues.diag() @ rotation.T
    return dense_problem((matrix + matrix.T)[None] / 2, damping, columns=3)


def dense(problem: Problem) -> tuple[Tensor, Tensor]:
    """H + λI and x*."""
    matrix = problem.operator.dense() + problem.damping * torch.eye(problem.size, dtype=torch.float64)
    return matrix, torch.linalg.solve(matrix, problem.columns())


def off(x: Tensor, wanted: Tensor) -> Tensor:
    """Relative errors of the columns."""
    return (x - wanted).norm(dim=0) / wanted.norm(dim=0)


def measured(asked: Peers, problem: Problem, prepared: Prepared, **piece: str) -> list[dict[str, Any]]:
    return [dict(row) for row in asked.measure(problem, prepared, {"goal": "", **piece}, 0, quiet)]


class TestSettings:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("peers:targets=[]", "targets is empty; name at least one relative error"),
            ("peers:targets=[0.1,1.0]", r"a target is 1\.0; a relative error between 0 and 1 is needed"),
            ("peers:targets=[0]", "a target is 0"),
            ('peers:ours=["gc"]', "no solver 'gc'"),
            ('peers:ours=["lissa:target={target},order=3"]', "order"),
            ('peers:libraries=["pydvl"]', "no library 'pydvl'; did you mean 'pyDVL'"),
            ("peers:max_seconds=0", "max_seconds is 0"),
            ("peers:max_seconds=nan", "max_seconds is nan"),
        ],
    )
    def test_what_is_wrong_is_named_before_any_work(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            study.plan(parse(text), [parse("softmax_regression")])

    @pytest.mark.parametrize("scale", ["quick", "small"])
    def test_every_scale_can_be_planned(self, scale: str) -> None:
        plan = study.plan(parse("peers"), scale=scale)
        assert len(plan.cells) == len(plan.families) * len(plan.request.seeds) * len(Peers().pieces())

    def test_every_solver_of_every_other_library_is_run(self) -> None:
        found = {
            (piece["library"], piece["solver"]) for piece in Peers().pieces() if piece["kind"] == "default"
        }
        folder = Path(library.__file__).parent
        adapters = {
            path.stem for path in folder.glob("*.py") if "LIBRARY = Library(" in path.read_text("utf-8")
        }
        assert len(adapters) >= 5
        wanted = {
            name
            for name, cls in solvers.available().items()
            if cls.__module__.rpartition(".")[2] in adapters or cls.__module__ == "solvers.scipy"
        }
        assert {solver for _, solver in found} == wanted
        assert {"curvlinops_cg", "pydvl_cg", "dattri_cg", "kronfluence_ekfac", "scipy_cg"} < wanted
        assert ("curvlinops-for-pytorch", "curvlinops_cg") in found
        assert ("scipy", "scipy_cg") in found

    def test_of_the_libraries_that_are_asked_for_alone(self) -> None:
        pieces = Peers(libraries=("pyDVL", "scipy")).pieces()
        assert {piece["library"] for piece in pieces} == {"ihvp-bench", "pyDVL", "scipy", ""}

    def test_ours_are_asked_for_each_target_where_they_can_be(self) -> None:
        pieces = [(each["solver"], each["goal"]) for each in STUDY.pieces() if each["kind"] == "ours"]
        assert pieces == [
            ("lissa:target={target}", "0.01"), ("lissa:target={target}", "0.0001"), ("cg", ""), ("exact", ""),
        ]  # fmt: skip

    def test_settings_that_no_advice_moves_are_run_once(self) -> None:
        goals: dict[str, list[tuple[str, str]]] = {}
        for piece in Peers().pieces():
            goals.setdefault(piece["solver"], []).append((piece["kind"], piece["goal"]))
        both = [("default", ""), ("tuned", "0.01"), ("tuned", "0.0001")]
        assert goals["curvlinops_cg"] == goals["scipy_lsmr"] == goals["torch_influence_cg"] == both
        # "type-2" in place of "mc".
        assert goals["curvlinops_ekfac"] == [("default", ""), ("tuned", "")]
        assert goals["kronfluence_kfac"] == goals["pydvl_direct"] == [("default", "")]

    def test_no_piece_has_the_settings_of_another(self, problem: Problem) -> None:
        advice = {
            target: replace(
                peers.EXTREMES[0],
                tolerance=target,
                rank=int(1 / target),
                num_steps=int(9 / target),
                series_terms=int(5 / target),
                cg_steps=int(3 / target),
            )
            for target in TARGETS
        }
        prepared = Prepared(problem, advice)
        asked = Peers()
        solves = [asked._solver(each, prepared) for each in asked.pieces() if each["kind"] != "reproductions"]
        assert len(set(solves)) == len(solves)

    def test_which_settings_a_piece_has(self, problem: Problem) -> None:
        advice = {0.01: peers.EXTREMES[0], 0.0001: peers.EXTREMES[1]}
        prepared = Prepared(problem, advice)

        def solver(kind: str, name: str, goal: str = "") -> str:
            return str(Peers()._solver({"kind": kind, "solver": name, "goal": goal}, prepared))

        assert solver("ours", "lissa:target={target}", "0.0001") == "lissa(target=0.0001)"
        # Beyond what the nearest target takes, 1e-4; one that is asked for another keeps it.
        assert solver("ours", "cg") == "cg(tolerance=5e-05)"
        assert solver("ours", "cg:tolerance={target}", "0.01") == "cg(tolerance=0.01)"
        assert solver("ours", "exact") == "exact"
        assert solver("default", "scipy_cg") == "scipy_cg"
        assert solver("tuned", "scipy_cg", "0.01") == "scipy_cg(tolerance=0.1)"
        assert solver("tuned", "curvlinops_neumann", "0.0001").startswith("curvlinops_neumann(scale=0.0099")


class TestAdvice:
    @pytest.mark.parametrize("target", [0.3, 1e-2, 1e-4, 1e-7])
    def test_the_loosest_tolerance_with_which_cg_has_the_error(
        self, problem: Problem, target: float, advise: Advise
    ) -> None:
        _, wanted = dense(problem)
        tolerance = advise(problem, target).tolerance

        def error(tolerance: float) -> float:
            x = solvers.solve(problem, ConjugateGradient(tolerance)).x
            assert x is not None
            return float(off(x, wanted).max())

        assert error(tolerance) <= target
        assert error(1.1 / 0.99 * tolerance) > target

    @pytest.mark.parametrize("target", [1e-2, 1e-4])
    def test_the_steps_are_those_of_scipys_cg(self, problem: Problem, target: float, advise: Advise) -> None:
        matrix, wanted = (each.numpy() for each in dense(problem))
        steps = []
        for b, x in zip(problem.columns().T.numpy(), wanted.T, strict=True):
            path: list[np.ndarray] = []
            scipy.sparse.linalg.cg(matrix, b, rtol=1e-10, callback=lambda y, path=path: path.append(y.copy()))
            errors = [np.linalg.norm(y - x) / np.linalg.norm(x) for y in path]
            steps.append(1 + next(place for place, error in enumerate(errors) if error <= target))
        assert advise(problem, target).cg_steps == max(steps)

    @pytest.mark.parametrize("target", [1e-2, 1e-4])
    def test_where_cg_breaks_down_it_is_minres(self, target: float, advise: Advise) -> None:
        # H + λI is indefinite.
        problem = spectral(torch.linspace(-1, 4, 14, dtype=torch.float64), damping=0.55)
        advice = advise(problem, target)
        solution = solvers.solve(problem, MINRES(advice.tolerance))
        assert solution.x is not None
        assert float(off(solution.x, dense(problem)[1]).max()) <= target
        assert 1 < advice.cg_steps <= 14

    @pytest.mark.parametrize("target", [1e-2, 1e-4])
    @pytest.mark.parametrize("name", ["problem", "indefinite"])
    def test_the_terms_are_the_fewest_of_the_series(
        self, name: str, target: float, advise: Advise, request: pytest.FixtureRequest
    ) -> None:
        problem: Problem = request.getfixturevalue(name)
        advice = advise(problem, target)
        matrix, wanted = dense(problem)
        step = 1 / (advice.largest_eigenvalue + advice.damping)
        term = step * problem.columns()
        total = torch.zeros_like(term)
        errors = []
        for _ in range(advice.series_terms):
            total = total + term
            term = term - step * matrix @ term
            errors.append(float(off(total, wanted).max()))
        assert errors[-1] <= target < errors[-2]

    def test_no_number_of_terms_will_do_where_the_sum_is_indefinite(self) -> None:
        problem = spectral(torch.linspace(-1, 4, 14, dtype=torch.float64), damping=0.55)
        # As many as where no eigenvalue is below 0.
        assert peers._advice(problem, 0.01).series_terms == math.ceil(math.log(100) * 4.55 / 0.55)

    @pytest.mark.parametrize("target", [1e-2, 1e-4])
    @pytest.mark.parametrize("name", ["problem", "indefinite"])
    def test_the_rank_is_what_cannot_be_left_out(
        self, name: str, target: float, advise: Advise, request: pytest.FixtureRequest
    ) -> None:
        problem: Problem = request.getfixturevalue(name)
        advice = advise(problem, target)
        matrix, wanted = dense(problem)
        values, vectors = torch.linalg.eigh(matrix)
        values = values - problem.damping
        sizes, order = values.abs().sort(descending=True)
        assert advice.largest_eigenvalue == pytest.approx(float(values.max()))
        assert float(sizes[advice.rank - 1]) > target * problem.damping
        assert not (sizes[advice.rank :] > target * problem.damping).any()
        kept = order[: advice.rank]
        scale = torch.full_like(values, problem.damping)
        scale[kept] = values[kept] + problem.damping
        x = vectors @ ((vectors.T @ problem.columns()) / scale[:, None])
        assert float(off(x, wanted).max()) <= target

    def test_of_a_large_problem_lanczos_finds_the_spectrum(
        self, problem: Problem, advise: Advise, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = advise(problem, 1e-2)
        matrix, x = dense(problem)
        fresh = problems.load("softmax_regression", **SMALL)
        monkeypatch.setattr(ground_truth, "LARGEST_DENSE", 10)
        found = peers._advice(peers.with_reference(fresh, quiet, error=1e-5), 1e-2)
        # Its 50 steps are all that H has.
        assert found.rank == wanted.rank
        assert found.largest_eigenvalue == pytest.approx(wanted.largest_eigenvalue)
        assert (found.tolerance, found.cg_steps) == (pytest.approx(wanted.tolerance), wanted.cg_steps)
        # An upper bound, for what b has in the least curved direction is not known.
        assert found.series_terms >= wanted.series_terms
        step = 1 / (found.largest_eigenvalue + found.damping)
        start = torch.linalg.matrix_power(
            torch.eye(50, dtype=torch.float64) - step * matrix, found.series_terms
        )
        assert float(off(x - start @ x, x).max()) <= 1e-2

    @pytest.mark.parametrize("target", [1e-2, 1e-4])
    def test_lissas_steps_are_enough_from_a_start_of_zero(
        self, problem: Problem, target: float, advise: Advise
    ) -> None:
        advice = advise(problem, target)
        matrix, wanted = dense(problem)
        x = torch.zeros_like(wanted)
        for _ in range(advice.num_steps):
            x = x - advice.step_size * (matrix @ x - problem.columns())
        assert float(off(x, wanted).max()) <= target

    def test_lissas_settings_are_stable_ones(self, problem: Problem, advise: Advise) -> None:
        advice = advise(problem, 1e-2)
        largest = float(torch.linalg.eigvalsh(dense(problem)[0])[-1])
        assert 0 < advice.step_size < 2 / largest
        assert 1 <= advice.batch_size <= 40
        assert advice.num_steps > 1

    def test_where_lissa_finds_no_settings_they_are_those_of_the_series(self) -> None:
        problem = spectral(torch.linspace(-1, 4, 14, dtype=torch.float64), damping=0.55)
        advice = peers._advice(problem, 1e-2)
        assert advice.step_size == pytest.approx(1 / 4.55)
        assert (advice.batch_size, advice.num_steps) == (1, advice.series_terms)


def record(seconds: float, error: float | None, work: float = 0.0) -> Record:
    return Record(1, work, seconds, None, error, None)


def solution(**values: Any) -> Solution:
    settled: dict[str, Any] = {
        "status": Status.FINISHED, "reason": "", "setup_seconds": 10.0, "setup_work": 100.0,
        "solve_seconds": 5.0, "work": 50.0, "error": torch.tensor([1e-9, 1e-3]),
        "history": (record(1.0, 0.5, 11.0), record(2.0, 0.005, 12.0), record(3.0, 0.001, 13.0)),
    }  # fmt: skip
    return Solution(torch.zeros(2, 2), **settled | values)


def to_target(found: Solution | None, target: float = 0.01, goal: str = "") -> tuple[float, float]:
    row = peers._to_target(found, {"goal": goal}, target)
    assert row["target"] == target
    return row["seconds_to_target"], row["work_to_target"]


class TestToTarget:
    def test_the_first_record_that_is_there_with_the_set_up(self) -> None:
        assert to_target(solution()) == (12.0, 112.0)
        assert to_target(solution(), 0.001) == (13.0, 113.0)

    def test_one_with_settings_for_an_error_is_charged_to_its_end(self) -> None:
        assert to_target(solution(), goal="0.01") == (15.0, 150.0)
        # Of the worst column.
        assert to_target(solution(error=torch.tensor([0.02, 0.0])), goal="0.01") == pytest.approx(
            (math.nan, math.nan), nan_ok=True
        )

    def test_one_without_a_history_too(self) -> None:
        assert to_target(solution(history=())) == (15.0, 150.0)

    @pytest.mark.parametrize(
        "found",
        [
            None,
            solution(history=(record(1.0, 0.02),)),
            solution(history=(record(1.0, math.nan), record(1.0, None))),
            solution(status=Status.DIVERGED),
            solution(status=Status.FAILED),
            solution(error=None, history=()),
        ],
    )
    def test_who_is_not_there_has_no_time(self, found: Solution | None) -> None:
        assert all(math.isnan(each) for each in to_target(found))

    def test_one_whose_time_ran_out_may_have_been_there(self) -> None:
        assert to_target(solution(status=Status.BUDGET_SPENT)) == (12.0, 112.0)


@dataclass(frozen=True)
class Idle(Solver):
    """Ends as it is told, after a while."""

    ending: Callable[[], None]

    def iterates(
        self, problem: Problem, state: Any, b: Tensor, generator: torch.Generator
    ) -> Iterator[Iterate]:
        self.ending()
        yield Iterate(torch.zeros_like(b), diagnostics={"said": ["slow", "wrong"]})


def sleep() -> None:
    time.sleep(5)


def swallow() -> None:
    """As TorchScript does."""
    try:
        sleep()
    except BaseException:
        raise RuntimeError("in the interpreter") from None


def diverge() -> None:
    raise Divergence("h held NaN")


def fail() -> None:
    raise RuntimeError("no")


class TestMeasure:
    def ends(
        self, monkeypatch: pytest.MonkeyPatch, problem: Problem, ending: Callable[[], None]
    ) -> dict[str, Any]:
        monkeypatch.setattr(Peers, "_solver", lambda self, piece, prepared: Idle(ending))
        first, second = measured(
            Peers(max_seconds=0.05),
            problem,
            Prepared(problem, {}),
            kind="default",
            solver="idle",
            library="scipy",
        )
        assert {**first, "target": 0} == pytest.approx({**second, "target": 0}, nan_ok=True)
        return first

    @pytest.mark.parametrize("ending", [sleep, swallow])
    def test_what_does_not_come_back_is_stopped(
        self, monkeypatch: pytest.MonkeyPatch, problem: Problem, ending: Callable[[], None]
    ) -> None:
        row = self.ends(monkeypatch, problem, ending)
        assert (row["status"], row["reason"]) == ("budget_spent", "it did not come back within 0.1 s")
        assert math.isnan(row["error"])
        assert math.isnan(row["seconds_to_target"])

    def test_what_a_library_said(self, monkeypatch: pytest.MonkeyPatch, problem: Problem) -> None:
        row = self.ends(monkeypatch, problem, lambda: None)
        assert (row["status"], row["said"]) == ("finished", "slow; wrong")
        assert row["error"] == pytest.approx(1.0)
        row = self.ends(monkeypatch, problem, diverge)
        assert row["status"] == "diverged"
        assert row["said"] == row["reason"]
        assert row["said"].startswith("h held NaN")
        row = self.ends(monkeypatch, problem, fail)
        assert (row["status"], row["reason"], row["said"]) == ("failed", "RuntimeError: no", "")

    def test_against_the_dense_solution(self, problem: Problem, prepared: Prepared) -> None:
        _, wanted = dense(problem)
        for piece in STUDY.pieces():
            if piece["solver"] not in ("cg", "exact", "scipy_cg"):
                continue
            first, second = (dict(row) for row in STUDY.measure(problem, prepared, piece, 0, quiet))
            solver = STUDY._solver(piece, prepared)
            x = solvers.solve(problem, solver).x
            assert x is not None
            assert first["error"] == pytest.approx(float(off(x, wanted).max()), rel=1e-3, abs=1e-12)
            assert first["settings"] == str(solver)
            assert [first["target"], second["target"]] == list(TARGETS)
            if not piece["goal"]:
                assert 0 < first["seconds_to_target"] <= second["seconds_to_target"]
                total = first["setup_seconds"] + first["solve_seconds"]
                assert second["seconds_to_target"] <= total * (1 + 1e-9)
                assert second["work_to_target"] <= first["work"]
                assert first["error"] <= TARGETS[1]

    def test_without_any_library_all_others_run(
        self, problem: Problem, prepared: Prepared, nothing_installed: None
    ) -> None:
        asked = Peers()
        for piece in asked.pieces():
            if piece["kind"] in ("ours", "reproductions"):
                continue
            row = dict(asked.measure(problem, prepared, piece, 0, quiet)[0])
            if piece["library"] == "scipy":
                assert (row["status"], row["version"] != "") == ("converged", True)
            else:
                reason = f"{piece['library']} is not installed: here"
                assert (row["status"], row["reason"], row["version"]) == ("skipped", reason, "")
                assert math.isnan(row["seconds_to_target"])


FOUND = Reproduction("a_script", "It differs", "It is 1.", "got = 2", "numpy", "2.0", "1", "2", differs=True)


def test_a_run_gives_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "reproductions", lambda: (FOUND,))
    asked = 'peers:libraries=["scipy"],ours=["cg","exact"],targets=[0.01],max_seconds=10'
    assert study_runner.run(study.plan(parse(asked), [parse(TEXT)]), tmp_path / "run")
    html = (tmp_path / "run" / "report" / "index.html").read_text("utf-8")
    assert "scipy_minres" in html
    assert "It differs" in html
    assert "expected 1, got 2" in html
    rows = Store(tmp_path / "run").read_rows()
    assert set(rows["failure"]) == {""}
    solved = rows[rows["kind"] != "reproductions"]
    assert set(solved["status"]) == {"converged", "finished"}
    assert len(solved) == 2 + 3 * 2
