import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import problems


def eigenvalues_of(**parameters: object) -> torch.Tensor:
    problem = problems.load("quadratic", **parameters)
    return torch.linalg.eigvalsh(problem.operator.dense()).flip(0)


@given(st.integers(1, 12), st.integers(1, 30), st.floats(0.2, 3), st.sampled_from(["equal", "heavy_tailed"]))
@settings(max_examples=12, deadline=None)
def test_the_spectrum_is_exactly_the_chosen_one(size: int, count: int, exponent: float, traces: str) -> None:
    if traces == "heavy_tailed":
        count += size
    found = eigenvalues_of(dimension=size, num_examples=count, exponent=exponent, traces=traces)
    expected = torch.arange(1, size + 1, dtype=torch.float64) ** -exponent
    expected[count:] = 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_spiked_and_flat_spectra() -> None:
    found = eigenvalues_of(dimension=6, num_examples=9, spectrum="spiked", spikes=2, bulk=0.1)
    torch.testing.assert_close(found, torch.tensor([1, 1, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64))
    found = eigenvalues_of(dimension=6, num_examples=9, spectrum="flat")
    torch.testing.assert_close(found, torch.ones(6, dtype=torch.float64))


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 100))
@settings(max_examples=12, deadline=None)
def test_equal_traces_are_equal(size: int, count: int, seed: int) -> None:
    problem = problems.load("quadratic", dimension=size, num_examples=count, seed=seed)
    traces = problem.operator.per_example.diagonal(dim1=1, dim2=2).sum(dim=1)  # type: ignore[attr-defined]
    torch.testing.assert_close(traces, traces.mean().expand(count), rtol=1e-9, atol=0)


def test_heavy_tails_are_heavy() -> None:
    problem = problems.load("quadratic", traces="heavy_tailed")
    traces = problem.operator.per_example.diagonal(dim1=1, dim2=2).sum(dim=1)  # type: ignore[attr-defined]
    assert traces.max() / traces.mean() > 4
    assert problem.facts["heterogeneity C"] == pytest.approx(float(traces.max() / traces.mean()))


def test_gradients_follow_the_curvature() -> None:
    """Columns from N(0, H): their covariance in H's eigenbasis is the spectrum."""
    problem = problems.load("quadratic", dimension=4, num_columns=20_000)
    eigenvalues, basis = torch.linalg.eigh(problem.operator.dense())
    coordinates = basis.T @ problem.columns()
    variances = coordinates.square().mean(dim=1)
    # Chi-squared with 20 000 degrees of freedom: five standard deviations are 5 %.
    torch.testing.assert_close(variances, eigenvalues, rtol=0.05, atol=0)


def test_a_seed_is_a_problem() -> None:
    first, again, other = (problems.load("quadratic", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.columns(), again.columns())
    assert torch.equal(first.operator.dense(), again.operator.dense())
    assert not torch.equal(first.columns(), other.columns())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dimension": 0}, "dimension is 0"),
        ({"exponent": -1.0}, "exponent is -1"),
        ({"traces": "heavy_tailed", "num_examples": 64}, "more than the dimension"),
        ({"spectrum": "spiked", "spikes": 65}, "spikes is 65"),
        ({"dimension": 2000, "num_examples": 5000}, "lower dimension or num_examples"),
        ({"damping": 0.0}, "damping is 0"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        problems.load("quadratic", **parameters)
