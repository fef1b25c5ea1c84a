import importlib
import sys
from pathlib import Path

import pytest

import problems
import solvers
from problems.discovery import NoPlugin, PluginWarning

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


def new_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Path:
    """An empty package that can be imported, and anew in every test."""
    for module in [each for each in sys.modules if each.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def discover(package: str) -> dict[str, type[solvers.Solver]]:
    module = importlib.import_module(package)
    return problems.discovery.discover(module, solvers.Solver, "no.such.group")  # type: ignore[type-abstract]


def test_a_solver_outside_the_repository_is_found_by_its_path(tmp_path: Path) -> None:
    path = write(tmp_path / "half.py", "Half")
    solver = solvers.load(str(path), factor=0.25)
    assert (solver.name, str(solver)) == ("half", "half(factor=0.25)")
    problem = problems.load("quadratic", dimension=3, num_examples=4)
    assert solvers.solve(problem, solver).status == "finished"


def test_a_file_dropped_into_the_folder_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(new_package(tmp_path, monkeypatch, "toy_solvers") / "half.py", "Half")
    assert list(discover("toy_solvers")) == ["half"]


def test_folders_within_that_are_packages_are_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = new_package(tmp_path, monkeypatch, "nested_solvers")
    for folder in ("inner", "_hidden", "no_package"):
        (package / folder).mkdir()
        write(package / folder / f"{folder.strip('_')}_half.py", "Half")
    for folder in ("inner", "_hidden"):
        (package / folder / "__init__.py").touch()
    write(package / "own.py", "Half")
    assert list(discover("nested_solvers")) == ["own", "inner_half"]


def test_what_is_installed_meanwhile_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a folder that was looked into before, or one that Python looks into from now on."""
    module = importlib.import_module("solvers")

    def install(folder: Path, name: str) -> None:
        write(folder / f"{name}.py", "Half")
        metadata = folder / f"{name}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[our.group]\nx = {name}:Half\n")

    def offered() -> set[str]:
        found = problems.discovery.discover(module, solvers.Solver, "our.group")  # type: ignore[type-abstract]
        return set(found) - set(solvers.available())

    monkeypatch.syspath_prepend(str(tmp_path))
    assert offered() == set()
    install(tmp_path, "half_of_it")
    assert offered() == {"half_of_it"}
    (tmp_path / "other").mkdir()
    install(tmp_path / "other", "half_of_that")
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    assert offered() == {"half_of_it", "half_of_that"}


def test_all_of_ours_are_there() -> None:
    assert set(problems.available()) >= {"quadratic", "softmax_regression", "image_classifier"}
    ours = {"exact", "cg", "lissa", "neumann", "identity", "scipy_cg", "scipy_minres"}
    assert set(solvers.available()) >= ours


def test_several_classes_in_a_file_of_a_package_need_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = new_package(tmp_path, monkeypatch, "varied_solvers")
    write(package / "two.py", "Half", "Quarter")
    write(package / "other.py", "One", variant="variant = 'one'")
    # Other names of a class do not make it several.
    (package / "half.py").write_text(SOLVER.format(name="Half", variant="") + "\nAlso = Half\n")
    with pytest.warns(
        PluginWarning, match=r"two\.py holds .*; give Half, Quarter a class attribute `variant`"
    ):
        assert list(discover("varied_solvers")) == ["half", "other"]


def test_a_file_given_by_its_path_holds_one_class(tmp_path: Path) -> None:
    path = write(tmp_path / "two.py", "Half", "Quarter")
    with pytest.raises(ValueError, match=r"two\.py holds several classes, Half and Quarter; .*of its own"):
        solvers.load(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x = 1\nraise RuntimeError('too early')",
            r"RuntimeError at line 2: too early\. Correct or remove it",
        ),
        ("import sys\nsys.exit(3)", "SystemExit at line 2: 3"),
        ("def (", r"SyntaxError: .*line 1"),
    ],
)
def test_a_broken_file_in_the_folder_is_left_out_and_all_else_goes_on(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = new_package(tmp_path, monkeypatch, "broken_solvers")
    write(package / "half.py", "Half")
    (package / "broken.py").write_text(text)
    with pytest.warns(PluginWarning, match=rf"broken\.py is left out: {message}"):
        assert list(discover("broken_solvers")) == ["half"]


def test_a_file_may_not_have_the_name_of_a_built_in(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"cg\.py and the built-in cg both have the name cg: rename the file"
    ):
        solvers.load(str(write(tmp_path / "cg.py", "Mine")))
    # The built-in's own file is no other.
    assert solvers.find(str(Path(solvers.__file__).with_name("cg.py"))) is solvers.find("cg")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('init boom')", "RuntimeError at line 5: init boom"),
        ("raise SystemExit(4)", "SystemExit at line 5: 4"),
        ("raise ValueError('no such factor')", "no such factor"),
    ],
)
def test_an_error_in_the_settings_check_names_its_line(tmp_path: Path, body: str, message: str) -> None:
    path = tmp_path / "half.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom solvers import Solver\nclass Half(Solver):\n"
        f"    def __post_init__(self):\n        {body}\n    def iterates(self, *given): yield\n"
    )
    with pytest.raises(ValueError, match=rf"^solver .*half\.py: {message}$"):
        solvers.load(str(path))


def test_what_a_class_lacks_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "misspelt.py", "Half")
    path.write_text(path.read_text().replace("iterates", "itarates"))
    with pytest.raises(ValueError, match=r"misspelt\.py: Half lacks `iterates`") as raised:
        solvers.load(str(path))
    assert not isinstance(raised.value, NoPlugin)


def test_files_that_are_no_plugins_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        solvers.load(str(tmp_path / "missing.py"))
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name")
    with pytest.raises(ValueError, match="cannot be imported: ModuleNotFoundError"):
        solvers.load(str(broken))
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(NoPlugin, match="holds no class derived from Solver"):
        solvers.load(str(empty))
    leaves = tmp_path / "leaves.py"
    leaves.write_text("\nraise SystemExit(0)")
    with pytest.raises(ValueError, match="cannot be imported: SystemExit at line 2: 0"):
        solvers.load(str(leaves))


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
