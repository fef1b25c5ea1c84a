from pathlib import Path

import pytest
import torch

import problems
from problems.cache import ENVIRONMENT_VARIABLE

SMALL = {"width": 3, "training_size": 200, "epochs": 2}


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    return tmp_path


def weights(**parameters: object) -> torch.Tensor:
    task = problems.load("image_classifier", **parameters).task
    assert task is not None
    return torch.cat([value.flatten() for value in task.function.parameters.values()])


def test_training_is_deterministic_and_the_checkpoint_is_the_same_network(empty_cache: Path) -> None:
    trained = weights(**SMALL)
    (checkpoint,) = empty_cache.rglob("*.safetensors")
    torch.manual_seed(99)
    from_cache = weights(**SMALL)
    checkpoint.unlink()
    trained_again = weights(**SMALL)
    assert torch.equal(trained, from_cache)
    assert torch.equal(trained, trained_again)


def test_seed_and_recipe_have_checkpoints_of_their_own(empty_cache: Path) -> None:
    found = [weights(**SMALL), weights(**SMALL, seed=1), weights(**{**SMALL, "epochs": 3})]
    assert len(list(empty_cache.rglob("*.safetensors"))) == 3
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_damaged_checkpoint_is_trained_again(empty_cache: Path) -> None:
    trained = weights(**SMALL)
    (checkpoint,) = empty_cache.rglob("*.safetensors")
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert torch.equal(weights(**SMALL), trained)
    assert torch.equal(weights(**SMALL), trained)


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(blocker / "cache"))
    with pytest.warns(UserWarning, match=f"Set {ENVIRONMENT_VARIABLE}"):
        weights(**SMALL)


def test_it_has_learnt_the_digits() -> None:
    problem = problems.load("image_classifier")
    assert float(problem.facts["test accuracy"]) > 0.88
    assert problem.operator.shape == (910, 910)


def test_float32_is_the_same_network() -> None:
    task = problems.load("image_classifier", dtype=torch.float32, **SMALL).task
    assert task is not None
    values = torch.cat([value.flatten() for value in task.function.parameters.values()])
    assert torch.equal(values, weights(**SMALL).float())


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="width is 0"):
        problems.load("image_classifier", width=0)


@pytest.mark.parametrize("curvature", ["ggn", "hessian", "empirical_fisher", "monte_carlo_fisher"])
def test_it_offers_every_curvature(curvature: str) -> None:
    problem = problems.load("image_classifier", **SMALL, curvature=curvature)
    assert problem.eigenvalues is not None
    indefinite = float(problem.eigenvalues[0]) < -1e-3
    assert indefinite == (curvature == "hessian") == (not problem.operator.is_psd)


def test_an_unknown_curvature_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(ValueError, match="no curvature 'fisher'"):
        problems.family("image_classifier", curvature="fisher")
