"""The figure of a performance profile: the best curves in colour, the others in grey behind them."""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from reports.panels import Style, styles
from reports.paper import paper_style, plain_label, save
from reports.profile import CLOSE, WITHOUT, Profile, share_within

# As many curves as can be told apart where they cross; a solver that chooses for itself comes on top.
EMPHASISED = 6

_BLACK = "0.1"
_GREY = "0.78"


def draw_profile(directory: Path, found: Profile) -> str:
    """Draws the profile into `directory`; the file's stem."""
    with paper_style():
        save(_figure(found), directory / "profile")
    return "profile"


def emphasised(found: Profile) -> list[str]:
    """The solvers drawn in colour: those that choose for themselves, then the best others."""
    plain = found.summary.loc[~found.summary["without_measurement"], "curve"].tolist()
    return [*found.choosers, *[solver for solver in plain if solver not in found.choosers][:EMPHASISED]]


def colours(solvers: list[str], looks: dict[str, Style]) -> dict[str, str]:
    """The colour each solver has in the other figures, or the next that is free where two would share one."""
    chosen: dict[str, str] = {}
    for solver in solvers:
        if looks[solver].colour not in chosen.values():
            chosen[solver] = looks[solver].colour
    palette = list(dict.fromkeys(look.colour for look in looks.values()))
    free = [colour for colour in palette if colour not in chosen.values()]
    for solver in solvers:
        if solver not in chosen:
            chosen[solver] = free.pop(0) if free else looks[solver].colour
    return chosen


def _figure(found: Profile) -> Figure:
    figure = Figure(figsize=(10.0, 4.8), layout="constrained")
    ax = figure.subplots()
    shown = emphasised(found)
    solvers = sorted(set(found.rows["solver"]))
    # One that chooses for itself stands out from all others.
    black = found.choosers[:1]
    colour = colours([solver for solver in shown if solver not in black], styles(solvers))
    colour |= dict.fromkeys(black, _BLACK)
    others = [solver for solver in solvers if solver not in shown]
    for solver in others:
        _step(ax, found, solver, color=_GREY, linewidth=0.8, zorder=2)
    # The best last, on top of the others.
    for rank, solver in reversed(list(enumerate(shown))):
        _step(ax, found, solver, color=colour[solver], linewidth=2.0, zorder=10 - rank)
        if f"{solver}{WITHOUT}" in found.ratios.index:
            _step(
                ax, found, f"{solver}{WITHOUT}", color=colour[solver], linewidth=2.0, zorder=10,
                linestyle=(0, (3, 1.5)),
            )  # fmt: skip
    _axes(ax, found.limit)
    handles = _handles(found, shown, colour)
    if others:
        label = f"{len(others)} other solver{'' if len(others) == 1 else 's'}"
        handles.append(Line2D([], [], color=_GREY, linewidth=1.2, label=label))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, handlelength=2.2)
    return figure


def _step(ax: Axes, found: Profile, curve: str, **look: object) -> None:
    ratios = np.maximum(found.ratios.loc[curve].to_numpy(), 1.0)
    inside = ratios[ratios <= found.limit]
    tau = np.unique(np.concatenate([[1.0], inside, [found.limit]]))
    ax.step(tau, share_within(ratios, tau), where="post", **look)  # type: ignore[arg-type]


def _axes(ax: Axes, limit: float) -> None:
    ax.set_xscale("log")
    ax.set_xlim(0.985, limit)
    # Half a line's width of room, so that curves at 0 and 1 are not cut.
    ax.set_ylim(-0.01, 1.015)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ×"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    ax.axvline(CLOSE, color="0.25", linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
    ax.set_xlabel(r"$\tau$,  work to the target over that of the best solver")
    ax.set_ylabel("share of problems")


def _handles(found: Profile, shown: list[str], colour: dict[str, str]) -> list[Line2D]:
    """The legend in the order in which the curves rank."""
    handles = []
    for curve in found.summary["curve"]:
        solver = curve.removesuffix(WITHOUT)
        if curve in shown or (solver in shown and solver != curve):
            dashes = "-" if curve in shown else (0, (3, 1.5))
            label = plain_label("\n".join(textwrap.wrap(curve, 30)))
            handles.append(
                Line2D([], [], color=colour[solver], linewidth=2.0, linestyle=dashes, label=label)  # type: ignore[arg-type]
            )
    return handles
