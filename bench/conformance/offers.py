"""What a plug-in's `examples` offers to be tried."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any

from bench.conformance.outcome import Failure


def offered_by(cls: Any, base: Any, kind: type, form: str, *given: object) -> list[Any]:
    """What `cls.examples(*given)` offers, all of the given kind; Failure where that is nothing to try.

    `form` is how one is written.
    """
    needed = [
        setting.name
        for setting in fields(cls)
        if setting.init and setting.default is MISSING and setting.default_factory is MISSING
    ]
    if needed and cls.examples.__func__ is base.examples.__func__:
        raise Failure(f"write `examples`, which gives {', '.join(needed)} a value: there is no default")
    found = cls.examples(*given)
    if not isinstance(found, Iterable):
        raise Failure(f"`examples` returned {found!r}: return a list of {form}")
    offered = list(found)
    if not offered:
        raise Failure(f"`examples` offers nothing: return at least one {kind.__name__} to be tried, {form}")
    for each in offered:
        if not isinstance(each, kind):
            raise Failure(f"`examples` offers {each!r}: return {form}")
    return offered
