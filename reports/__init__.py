"""How it is told: tables, figures, recommendations and one self-contained page, from rows alone."""

from reports.report import build

__all__ = ["build"]
