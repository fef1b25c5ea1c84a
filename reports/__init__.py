"""How it is told: tables, figures, recommendations and one self-contained page, from rows alone."""

from reports.diagnosis import build_diagnosis, check_diagnosis_directory
from reports.products import build_products, products_run
from reports.publish import publish
from reports.report import build

__all__ = [
    "build",
    "build_diagnosis",
    "build_products",
    "check_diagnosis_directory",
    "products_run",
    "publish",
]
