from pathlib import Path

import pytest

import problems
import solvers

SOLVER = '''
from dataclasses import dataclass
from solvers import Iterate, Solver

@dataclass(frozen=True)
class {name}(Solver):
    """Half of the identity."""
    factor: float = 0.5
    {variant}

    def iterates(self, problem, state, b, generator):
        yield Iterate(self.factor * b / problem.damping)
'''


def write(path: Path, *names: str, variant: str = "") -> Path:
    path.write_text("\n".join(SOLVER.format(name=name, variant=variant) for name in names))
    return path


def test_a_solver_outside_the_repository_is_found_by_its_path(tmp_path: Path) -> None:
    path = write(tmp_path / "half.py", "Half")
    solver = solvers.load(str(path), factor=0.25)
    assert (solver.name, str(solver)) == ("half", "half(factor=0.25)")
    problem = problems.load("quadratic", dimension=3, num_examples=4)
    assert solvers.solve(problem, solver).status == "finished"


def test_a_file_dropped_into_the_folder_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "toy_solvers"
    package.mkdir()
    (package / "__init__.py").write_text("")
    write(package / "half.py", "Half")
    monkeypatch.syspath_prepend(str(tmp_path))
    import toy_solvers  # type: ignore[import-not-found]

    found = problems.discovery.discover(toy_solvers, solvers.Solver, "no.such.group")  # type: ignore[type-abstract]
    assert list(found) == ["half"]


def test_all_of_ours_are_there() -> None:
    assert set(problems.available()) >= {"quadratic", "softmax_regression", "image_classifier"}
    ours = {"exact", "cg", "lissa", "neumann", "identity", "scipy_cg", "scipy_minres"}
    assert set(solvers.available()) >= ours


def test_several_classes_in_a_file_need_variants(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Half, Quarter a class attribute `variant`"):
        solvers.load(str(write(tmp_path / "two.py", "Half", "Quarter")))


def test_files_that_are_no_plugins_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        solvers.load(str(tmp_path / "missing.py"))
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name")
    with pytest.raises(ValueError, match="cannot be imported: ModuleNotFoundError"):
        solvers.load(str(broken))
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(ValueError, match="holds 0 classes derived from Solver"):
        solvers.load(str(empty))


def test_unknown_solvers_and_settings_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no solver 'lisa'; did you mean 'lissa'\? Known: .*cg, .*exact"):
        solvers.load("lisa")
    with pytest.raises(ValueError, match="no setting 'tolerence'; did you mean 'tolerance'"):
        solvers.load("cg", tolerence=1)
    with pytest.raises(ValueError, match="step_size is missing and has no default"):
        solvers.load("neumann", num_steps=10)
    with pytest.raises(ValueError, match="tolerance is 'small'"):
        solvers.load("cg", tolerance="small")


def test_two_plugins_may_not_claim_one_name() -> None:
    found = {"cg": solvers.find("cg")}
    with pytest.raises(ValueError, match="two classes claim the name 'cg'"):
        problems.discovery._claim(found, {"cg": solvers.find("exact")})
