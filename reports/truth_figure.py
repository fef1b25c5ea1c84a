"""The figure of a truth page: how right each solver's influences are, against what they cost."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures import legend_columns, panel_title
from reports.panels import Style, apply_scale, scale_for, styles
from reports.rows import in_order
from reports.truth_rows import name_of, of, table

LABELS = {
    "lds": "LDS",
    "pbrf": "Pearson with PBRF",
    "loo": "Pearson with leave-one-out",
}


def truth_figure(rows: pd.DataFrame) -> Figure:
    """A row of panels for each problem, a column for each truth but the exact one; the front is a line."""
    whole = table(rows)
    problems = in_order(whole["problem"])
    truths = [truth for truth in LABELS if (whole["truth"] == truth).any()] or ["exact"]
    solvers = in_order(whole["solver"])
    looks = styles(solvers)
    width = max(1.2 + 3.3 * len(truths), 5.0)
    figure = Figure(figsize=(width, 1.0 + 2.6 * len(problems)), layout="constrained")
    axes = figure.subplots(len(problems), len(truths), squeeze=False)
    for line, problem in zip(axes, problems, strict=True):
        for ax, truth in zip(line, truths, strict=True):
            _panel(ax, of(whole, problem, truth), looks)
            ax.set_ylabel(LABELS.get(truth, "Pearson with the exact solution"))
        line[0].set_title(panel_title(problem), loc="left", fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("work of the solve  (gradients)")
    names = [name_of(solver) for solver in solvers]
    figure.legend(
        [looks[solver].handle() for solver in solvers], names, loc="outside lower center",
        ncols=legend_columns([len(name) for name in names], width), frameon=False,
    )  # fmt: skip
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, looks: dict[str, Style]) -> None:
    known = rows[rows["value"].notna() & rows["total_work"].notna()]
    if known.empty:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color="0.45", fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
        return
    x = scale_for(known["total_work"].to_numpy())
    apply_scale(ax, "x", x)
    places = dict(zip(known.index, x.place(known["total_work"].to_numpy()), strict=True))
    front = _front(known)
    ax.plot(
        [places[name] for name in front], known.loc[front, "value"], color="0.75", linewidth=1.1, zorder=1
    )
    for solver, row in known.iterrows():
        look = looks[str(solver)]
        if not math.isnan(row["low"]):
            ax.plot(
                [places[solver]] * 2, [row["low"], row["high"]], color=look.colour, linewidth=1.4, zorder=2
            )
        ax.plot(
            places[solver], row["value"], color=look.colour, marker=look.marker, markersize=6.5,
            markeredgecolor="white", markeredgewidth=0.7, linestyle="none", zorder=3, clip_on=False,
        )  # fmt: skip
    least = float(known[["value", "low"]].min().min())
    ax.set_ylim(min(0.0, least - 0.05), 1.03)


def _front(known: pd.DataFrame) -> list[str]:
    """Solvers that are righter than all that cost no more, by cost."""
    found: list[str] = []
    highest = -math.inf
    for name, row in known.sort_values(["total_work", "value"], ascending=[True, False]).iterrows():
        if row["value"] > highest:
            found.append(str(name))
            highest = row["value"]
    return found
