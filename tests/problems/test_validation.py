"""What is said of settings of the wrong type: the name, the value, and what is allowed, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from problems.discovery import construct


@dataclass(frozen=True)
class Plain:
    """One setting of each kind."""

    sizes: tuple[int, ...] = (1,)
    steps: int | Literal["auto"] = "auto"
    size: int | Literal["full", "auto"] | float = 1
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    mode: Literal["fast", "slow"] = "fast"
    most: int | None = None
    name: str = ""
    quiet: bool = False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": 5}, r"sizes is 5; it must be a list, as in \[1,2\]"),
        ({"sizes": [1, "b"]}, r"sizes\.1 is 'b'; it must be a whole number"),
        ({"steps": "many"}, "steps is 'many'; it must be a whole number or 'auto'"),
        ({"size": "half"}, "size is 'half'; it must be a whole number or 'full' or 'auto' or a number"),
        ({"share": 0}, "share is 0; it must be > 0"),
        ({"share": 1.5}, "share is 1.5; it must be ≤ 1"),
        ({"share": "some"}, "share is 'some'; it must be a number"),
        ({"mode": "quick"}, "mode is 'quick'; it must be 'fast' or 'slow'"),
        ({"most": "all"}, "most is 'all'; it must be a whole number"),
        ({"most": 1.5}, r"most is 1\.5; it must be a whole number"),
        ({"name": 3}, "name is 3; it must be text"),
        ({"quiet": "perhaps"}, "quiet is 'perhaps'; it must be true or false"),
        ({"steps": "x", "name": 3}, "steps is 'x'; it must be .* or 'auto'; name is 3; it must be text"),
    ],
)
def test_the_value_and_what_is_allowed_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^plain: {message}$"):
        construct(Plain, settings, "plain")
