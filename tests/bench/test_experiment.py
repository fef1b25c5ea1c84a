from pathlib import Path

import pytest
import torch

import problems
import solvers
from bench.experiment import Experiment, available, load_experiment, plan
from problems.specification import parse
from solvers.peers.library import library_of

SOLVER = "import solvers\nclass Mine(solvers.Solver):\n    def iterates(self, *given): yield\n"
OWN = [name for name, cls in solvers.available().items() if not library_of(cls)]
SMALL = {"problems": [{"name": "quadratic"}], "solvers": [{"name": "cg"}]}


def test_every_named_experiment_can_be_planned() -> None:
    for name, experiment in available().items():
        assert plan(experiment).cells, name


def test_quickstart_covers_what_it_promises() -> None:
    planned = plan(load_experiment("quickstart"))
    assert len({cell.solver.name for cell in planned.cells}) >= 5
    assert len(planned.families) >= 3
    for cell in planned.cells:
        if cell.solver.name in ("cg", "scipy_minres"):
            assert cell.solver.promised_tolerance == 1e-10


def test_quickstarts_step_sizes_follow_from_the_spectra_it_names() -> None:
    """The paper's rule: η = 1/(λ_max + λ), ηλT = 2.25, b = Tr(H)/(λ_max + λ)."""
    planned = plan(load_experiment("quickstart"))
    for label, family in planned.families.items():
        problem = family.build(device=torch.device("cpu"), dtype=torch.float64, seed=0)
        assert problem.eigenvalues is not None
        largest = float(problem.eigenvalues[-1]) + problem.damping
        (rule,) = {
            cell.solver
            for cell in planned.cells
            if (cell.problem, cell.solver_label) == (label, "lissa, paper's rule")
        }
        assert rule.step_size == pytest.approx(1 / largest, rel=0.02)  # type: ignore[attr-defined]
        steps = rule.step_size * problem.damping * rule.num_steps  # type: ignore[attr-defined]
        assert steps == pytest.approx(2.25, rel=0.02)
        trace = float(problem.eigenvalues.sum())
        assert abs(rule.batch_size - trace / largest) <= 1  # type: ignore[attr-defined]


def test_seeds_come_outermost_and_solvers_innermost() -> None:
    experiment = Experiment.model_validate(
        {
            "problems": [{"name": "quadratic"}, {"name": "softmax_regression"}],
            "solvers": [{"name": "cg"}, {"name": "exact", "only_on": ["quadratic"]}],
            "seeds": [0, 1],
        }
    )
    order = [(cell.seed, cell.problem, cell.solver_label) for cell in plan(experiment).cells]
    once = [("quadratic", "cg"), ("quadratic", "exact"), ("softmax_regression", "cg")]
    assert order == [(seed, *pair) for seed in (0, 1) for pair in once]
    assert [cell.index for cell in plan(experiment).cells] == list(range(6))


def test_specifications_replace_problems_and_solvers() -> None:
    changed = load_experiment("quickstart").with_changes(
        [parse("quadratic:dimension=3")], [parse("cg:tolerance=0.1")], seeds=(7,), device=None
    )
    (cell,) = plan(changed).cells
    assert (cell.problem, cell.solver_label, cell.seed) == ("quadratic(dimension=3)", "cg(tolerance=0.1)", 7)
    assert changed.target_error == load_experiment("quickstart").target_error


def test_solvers_restricted_to_other_problems_drop_out() -> None:
    changed = load_experiment("quickstart").with_changes([parse("image_classifier")], [])
    assert {cell.problem for cell in plan(changed).cells} == {"image_classifier"}


def labels(change: dict) -> list[str]:
    return [cell.solver_label for cell in plan(Experiment.model_validate(SMALL | change)).cells]


def test_every_solver_is_those_that_need_no_settings() -> None:
    found = labels({"solvers": [{"name": "*"}]})
    assert found == [name for name in OWN if name != "neumann"]
    assert {"cg", "scipy_cg"} <= set(found)
    assert not any("curvlinops" in name for name in found)


def test_every_problem_is_every_family_with_default_parameters() -> None:
    entries = [{"name": "*"}, {"name": "quadratic", "parameters": {"damping": 0.5}}]
    planned = plan(Experiment.model_validate(SMALL | {"problems": entries}))
    assert list(planned.families) == [*problems.available(), "quadratic(damping=0.5)"]


def test_what_is_listed_with_its_defaults_is_not_there_twice() -> None:
    entries = [
        {"name": "*"},
        {"name": "cg", "label": "conjugate gradients", "settings": {"tolerance": 1e-6}},
        {"name": "cg", "settings": {"tolerance": 0.1}},
        {"name": "exact", "only_on": ["softmax_regression"]},
    ]
    found = labels({"solvers": entries})
    assert "cg" not in found
    assert "exact" not in found
    assert found[-2:] == ["conjugate gradients", "cg(tolerance=0.1)"]
    assert len(found) == len(OWN) - 3 + 2


def test_every_solver_may_be_restricted_to_some_problems() -> None:
    entries = [{"name": "*", "only_on": ["softmax_regression"]}, {"name": "cg"}]
    assert labels({"solvers": entries}) == ["cg"]


def test_the_plan_tells_what_every_one_stood_for() -> None:
    """run.json is made of it: a run in which another solver would have a cell's number is not resumed."""
    planned = plan(Experiment.model_validate(SMALL | {"solvers": [{"name": "*"}]}))
    assert [entry.name for entry in planned.experiment.solvers] == [
        cell.solver_label for cell in planned.cells
    ]
    assert planned.experiment.expanded() == planned.experiment


def test_solvers_can_be_restricted_to_one_problem_of_a_family() -> None:
    entries = [{"name": "quadratic"}, {"name": "quadratic", "parameters": {"damping": 10.0}}]
    chosen = [
        {"name": "neumann", "label": "neumann", "settings": {"step_size": step}, "only_on": [where]}
        for where, step in [("quadratic:damping=0.01", 0.99), ("quadratic(damping=10)", 0.09)]
    ]
    planned = plan(Experiment.model_validate({"problems": entries, "solvers": chosen}))
    found = [(cell.problem, cell.solver.step_size) for cell in planned.cells]  # type: ignore[attr-defined]
    assert found == [("quadratic", 0.99), ("quadratic(damping=10)", 0.09)]


def test_all_solvers_step_sizes_follow_from_the_spectra() -> None:
    """1/(λ_max + λ), on every problem where H + λI is definite."""
    planned = plan(load_experiment("solvers"))
    steps = {c.problem: c.solver.step_size for c in planned.cells if c.solver.name == "neumann"}  # type: ignore[attr-defined]
    assert set(planned.families) - set(steps) == {"image_classifier(curvature=hessian)"}
    largest = {"quadratic": 1.0, "softmax_regression": 0.4587, "image_classifier": 1.9717}
    for label, step in steps.items():
        family = planned.families[label]
        total = largest[family.name] + family.damping  # type: ignore[attr-defined]
        assert step == pytest.approx(1 / total, rel=0.02), label


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solvers": [{"name": "*"}, {"name": "*"}]}, "is listed twice"),
        ({"problems": [{"name": "*"}, {"name": "*"}]}, "is listed twice"),
        ({"solvers": [{"name": "*", "settings": {"tolerance": 1}}]}, "default settings; leave out settings"),
        ({"solvers": [{"name": "*", "label": "all"}]}, "default settings; leave out settings and label"),
        ({"problems": [{"name": "*", "parameters": {"damping": 1}}]}, "default parameters; leave out"),
        ({"solvers": [{"name": "cg", "only_on": ["quadratic:dampin=1"]}]}, "did you mean 'damping'"),
        ({"solvers": [{"name": "lisa"}]}, "no solver 'lisa'; did you mean 'lissa'"),
        ({"problems": [{"name": "quadratics"}]}, "no problem 'quadratics'; did you mean 'quadratic'"),
        ({"solvers": [{"name": "cg", "settings": {"tol": 1}}]}, "no setting 'tol'; did you mean 'tolerance'"),
        ({"problems": [{"name": "quadratic", "parameters": {"damping": "x"}}]}, "damping is 'x'"),
        ({"solvers": [{"name": "neumann", "settings": {"num_steps": 1}}]}, "step_size is missing"),
        ({"solvers": [{"name": "cg"}, {"name": "cg"}]}, "solver cg is listed twice"),
        ({"problems": [{"name": "quadratic"}, {"name": "quadratic"}]}, "problem quadratic is listed twice"),
        ({"solvers": [{"name": "cg", "only_on": ["quadratik"]}]}, "only_on: there is no problem 'quadratik'"),
        ({"solvers": [{"name": "cg", "only_on": ["image_classifier"]}]}, "Choose solvers with -s"),
        ({"device": "quantum"}, "device is 'quantum'"),
        ({"device": "mps"}, "allowed are 'cpu', 'cuda'"),
    ],
)
def test_wrong_names_and_settings_are_refused_before_any_work(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(Experiment.model_validate(SMALL | change))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="sees no CUDA device; use 'cpu'"):
        plan(Experiment.model_validate(SMALL | {"device": "cuda"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("problems = [", "is not valid TOML"),
        ("problems = []\nsolvers = []", r"problems is \[\]; it must be a list of at least 1"),
        ("seeds = [-1]", "seeds.0 is -1; it must be ≥ 0"),
        ("dtype = 'float8'", "dtype is 'float8'; it must be 'float32' or 'float64'"),
        ("name = '../elsewhere'", r"name is '../elsewhere'; it must be text of the form \^\[\\w"),
        ("sead = 1", "sead is 1, but there is nothing of that name"),
        ("[budget]\nmax_seconds = 0", "budget: .*max_seconds is 0.0; a budget must be > 0"),
        ("", "solvers is missing"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"mine.toml.*{message}"):
        load_experiment(str(path))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"title = '\xff'")
    with pytest.raises(ValueError, match=r"mine\.toml is not valid TOML"):
        load_experiment(str(path))


def test_unknown_experiments_suggest_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no experiment 'quickstrat'; did you mean 'quickstart'"):
        load_experiment("quickstrat")
    with pytest.raises(ValueError, match="there is no file"):
        load_experiment(str(tmp_path / "missing.toml"))


def test_two_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "mine.py" for folder in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(SOLVER)
    with pytest.raises(ValueError, match=r"one.mine\.py and .*two.mine\.py both have the name mine: rename"):
        plan(Experiment.model_validate(SMALL | {"solvers": [{"name": str(path)} for path in paths]}))
    with pytest.raises(ValueError, match="the solver mine is listed twice"):
        plan(Experiment.model_validate(SMALL | {"solvers": [{"name": str(paths[0])}] * 2}))
