import pytest

import problems
from problems.named import NAMED, name_of, resolve


@pytest.mark.parametrize("name", list(NAMED))
def test_a_network_is_its_family_with_its_parameters(name: str) -> None:
    of, own = NAMED[name]
    family = problems.family(name)
    assert family == problems.family(of, **own)
    assert str(family) == name


def test_other_parameters_are_named_beside_the_network() -> None:
    family = problems.family("resnet18", damping=0.5, width=4)
    assert str(family) == "resnet18(width=4, damping=0.5)"
    assert vars(family)["data"] == "cifar10"


def test_any_other_name_is_left_as_it_is() -> None:
    assert resolve("quadratic", {"dimension": 3}) == ("quadratic", {"dimension": 3})
    assert name_of("quadratic", {"dimension": 3}) is None
    assert str(problems.family("quadratic")) == "quadratic"


def test_an_unknown_name_suggests_the_nearest_network_too() -> None:
    with pytest.raises(ValueError, match="did you mean 'opt-small'"):
        problems.family("opt-smal")


def test_a_wrong_parameter_is_named_with_the_network() -> None:
    with pytest.raises(ValueError, match=r"problem resnet18: .*'widht'; did you mean 'width'"):
        problems.family("resnet18", widht=3)
