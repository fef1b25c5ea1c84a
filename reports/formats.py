"""Numbers as people read them: three significant digits, the same everywhere in a report."""

import math
from collections.abc import Callable, Sequence

ABSENT = "–"

Formatter = Callable[[float], str]


def number(value: float) -> str:
    """1234 → "1,234", 0.01234 → "0.0123", 1.234e-9 → "1.2e-9", infinity → "∞", NaN → "–"."""
    if math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    magnitude = abs(value)
    if magnitude < 1e6 and value == round(value):
        return signed(f"{round(value):,}")
    if 99.95 <= magnitude < 1e5:
        return signed(f"{value:,.0f}")
    if 1e-2 <= magnitude < 99.95:
        return signed(f"{value:#.3g}")
    return scientific(f"{value:.1e}")


def signed(text: str) -> str:
    """A number's text with a minus sign, not a hyphen: "-0.25" → "−0.25"."""
    return f"−{text[1:]}" if text.startswith("-") else text


def scientific(text: str) -> str:
    """1.2e-09 → 1.2e-9, whose exponent stays as one types it."""
    mantissa, _, exponent = signed(text).partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def count(value: float) -> str:
    """A whole number with all its digits: 1.3e9 → "1,300,000,000"."""
    return signed(f"{value:,.0f}") if math.isfinite(value) else number(value)


def setting(value: float) -> str:
    """What somebody chose, without padding: 0.001 → "0.001", 12.30 → "12.3", 1e-10 → "1e-10"."""
    return scientific(f"{value:.6g}") if math.isfinite(value) else number(value)


def duration(seconds: float) -> str:
    """Seconds with the unit that keeps them short: µs, ms, s, min or h."""
    if math.isnan(seconds) or math.isinf(seconds):
        return number(seconds)
    if seconds == 0:
        return "0 s"
    for limit, scale, unit in (
        (1e-3, 1e6, "µs"),
        (1.0, 1e3, "ms"),
        (600.0, 1.0, "s"),
        (1e4, 1 / 60, "min"),
    ):
        if seconds < limit * 0.9995:
            return f"{number(float(f'{seconds * scale:.3g}'))} {unit}"
    return f"{number(float(f'{seconds / 3600:.3g}'))} h"


def target_text(target: float) -> str:
    """0.01 → "1 %", 1e-6 → "1e-6"."""
    return f"{100 * target:.3g} %" if 1e-4 <= target <= 1 else scientific(f"{target:.3g}")


def share(value: float) -> str:
    """A relative error in prose: 0.873 → "87 %", 0.0231 → "2.3 %", smaller than 0.01 % → "1.2e-9"."""
    if not 1e-4 <= value < 10:
        return number(value)
    percent = 100 * value
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.2g} %"


def times(ratio: float) -> str:
    """A ratio: 4.13 → "4.1 ×", 87.4 → "87 ×", 0.0213 → "0.02 ×"."""
    if math.isinf(ratio) or ratio >= 1e6:
        return f"{number(ratio)} ×"
    if 0 < ratio < 0.095:
        return f"{scientific(f'{ratio:.1g}')} ×"
    return signed(f"{ratio:.1f} ×") if ratio < 9.95 else f"{ratio:,.0f} ×"


def hundredths(value: float) -> str:
    """Two decimals, for ratios of which small differences count: 3 → "3.00", NaN → "–"."""
    return signed(f"{value:,.2f}") if math.isfinite(value) else number(value)


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"; "" of none."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def spread(median: float, low: float, high: float, form: Formatter = number) -> tuple[str, str]:
    """The median, and "[min–max]" where the ends read differently from each other, else "".

    A unit that both ends share is written once: "[365–381 ms]".
    """
    first, last = form(low), form(high)
    if first == last:
        return form(median), ""
    if first.partition(" ")[2] == last.partition(" ")[2]:
        first = first.partition(" ")[0]
    return form(median), f"[{first}–{last}]"
