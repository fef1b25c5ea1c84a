import pytest
import torch
from torch.autograd.functional import hessian

import problems
from problems.softmax_regression import closed_form_hessian


def test_closed_form_is_autograds_hessian() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    targets = torch.arange(7) % 4
    flat = torch.randn(4 * 3 + 4, generator=generator, dtype=torch.float64)

    def logits(flat: torch.Tensor) -> torch.Tensor:
        return inputs @ flat[:12].reshape(4, 3).T + flat[12:]

    expected = hessian(lambda flat: torch.nn.functional.cross_entropy(logits(flat), targets), flat)
    found = closed_form_hessian(inputs, logits(flat).softmax(dim=1))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("training_size", [150, 5])
def test_the_operator_is_the_closed_form(training_size: int) -> None:
    """Also where the training set lacks some of the classes."""
    problem = problems.load("softmax_regression", pooling=2, training_size=training_size)
    assert problem.closed_form is not None
    torch.testing.assert_close(problem.operator.dense(), problem.closed_form(), rtol=1e-10, atol=1e-14)


def test_the_fit_is_the_regularised_optimum() -> None:
    """At the optimum of mean loss + r/2 ‖W‖², the gradient is −r W, and 0 for the free intercepts."""
    problem = problems.load("softmax_regression", regularization=1e-2)
    assert problem.task is not None
    gradient = problem.task.training_gradient()[:, 0]
    weight = problem.task.function.parameters["weight"].flatten()
    torch.testing.assert_close(gradient[:640], -1e-2 * weight, rtol=0, atol=2e-5)
    torch.testing.assert_close(gradient[640:], torch.zeros(10, dtype=torch.float64), rtol=0, atol=2e-5)


def test_it_has_learnt_the_digits() -> None:
    problem = problems.load("softmax_regression")
    assert float(problem.facts["test accuracy"]) > 0.9
    assert problem.operator.shape == (650, 650)


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="pooling is 3"):
        problems.load("softmax_regression", pooling=3)
    with pytest.raises(ValueError, match="num_queries is 1000"):
        problems.load("softmax_regression", num_queries=1000)
    with pytest.raises(ValueError, match="training_size is 5000"):
        problems.load("softmax_regression", training_size=5000)
    with pytest.raises(ValueError, match="regularization is 0"):
        problems.load("softmax_regression", regularization=0)
