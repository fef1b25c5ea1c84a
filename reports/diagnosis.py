"""build_diagnosis(): a page on one problem's spectrum and what to run on it, whole or not at all."""

import json
import math
from pathlib import Path
from typing import Any

from reports.diagnosis_figure import draw_costs, draw_density
from reports.folders import check_replaceable, whole_folder
from reports.formats import ABSENT, count, number, setting, target_text
from reports.html import environment, image, template, when

# What the page consists of; a directory with anything else in it is not ours to replace.
_FIGURES = ("density", "costs")
_PARTS = {"index.html", "diagnosis.json"} | {f"{name}.{kind}" for name in _FIGURES for kind in ("png", "pdf")}

_REACHES = {True: ("met", "yes"), False: ("missed", "no"), None: ("skipped", "not known")}


def build_diagnosis(stored: dict[str, Any], directory: Path) -> Path:
    """Writes the page and returns the path of its `index.html`.

    Parameters: `stored` has "diagnosis", what `ihvp-bench diagnose --json` prints of it, and "run", where
    and when; `directory` receives index.html (one file, opens offline), diagnosis.json with `stored`, and
    the figures density and costs as .png and .pdf, costs where anything is predicted.

    Raises ValueError where `stored` lacks either, and FileExistsError where `directory` holds something
    other than such a page.
    """
    missing = [name for name in ("diagnosis", "run") if name not in stored]
    if missing:
        raise ValueError(f"this is no stored diagnosis: it lacks {', '.join(missing)}")
    found = stored["diagnosis"]
    with whole_folder(directory, _PARTS) as fresh:
        text = json.dumps(stored, indent=2, ensure_ascii=False, allow_nan=False)
        (fresh / "diagnosis.json").write_text(text + "\n", encoding="utf-8")
        draw_density(found, fresh / "density")
        predicted = [row for row in found["solvers"] if row["work"] is not None]
        if predicted:
            draw_costs(found, fresh / "costs")
        html = _render(found, stored["run"], fresh, bool(predicted))
        (fresh / "index.html").write_text(html, encoding="utf-8")
    return Path(directory).resolve() / "index.html"


def check_diagnosis_directory(directory: Path) -> None:
    """FileExistsError where a page could not be written: before any work for it."""
    check_replaceable(Path(directory), _PARTS)


def _render(found: dict[str, Any], run: dict[str, Any], figures: Path, with_costs: bool) -> str:
    subject, spent = found["subject"], found["spent"]
    machine, versions = run.get("machine") or {}, run.get("versions") or {}
    told = [
        when(run),
        machine.get("processor"),
        f"torch {versions['torch']}" if "torch" in versions else "",
    ]
    return template("diagnosis.html.j2").render(
        title=f"Diagnosis of {subject['specification'] or subject['name']}",
        meta=" · ".join(part for part in told if part),
        command=run.get("command") or "",
        target=target_text(found["target"]),
        recommendation=found["recommendation"],
        warnings=found["warnings"],
        notes=found["notes"],
        facts=_facts(subject),
        spectrum=[_quantity(quantity) for quantity in found["spectrum"].values()],
        settings=[_settings(judged) for judged in found["settings"]],
        solvers=[_solver(row) for row in found["solvers"]],
        density=image(figures / "density.png"),
        costs=image(figures / "costs.png") if with_costs else "",
        spent=[(name, number(value)) for name, value in spent["parts"].items()],
        asked=number(spent["asked"]),
        total=number(spent["total"]),
        over_all_data="" if spent["over_all_data"] == spent["total"] else number(spent["over_all_data"]),
        environment=environment(run),
    )


def _facts(subject: dict[str, Any]) -> list[tuple[str, str, str]]:
    unit = "tokens" if subject["unit"] == "token" else "examples"
    return [
        ("p", count(subject["size"]), "parameters"),
        ("n", f"{count(subject['num_examples'])} {unit}", "what H is the mean over"),
        ("right-hand sides", count(subject["num_columns"]), "columns of B"),
        ("λ", setting(subject["damping"]), "damping"),
        ("dtype", subject["dtype"], "of H and B"),
        ("device", subject["device"], "of H and B"),
    ]


def _quantity(quantity: dict[str, Any]) -> dict[str, str]:
    low, high = quantity["low"], quantity["high"]
    ends = "" if low is None and high is None else f"[{_number(low)}, {_number(high)}]"
    return {
        "symbol": quantity["symbol"],
        "value": _number(quantity["value"]),
        "interval": ends,
        "kind": quantity["kind"],
        "meaning": quantity["meaning"],
    }


def _settings(judged: dict[str, Any]) -> dict[str, Any]:
    batch = judged["batch_size"]
    return {
        "name": judged["name"],
        "note": judged["note"],
        "facts": [
            ("η", _number(judged["step_size"]), "step size"),
            ("b", batch if isinstance(batch, str) else count(batch), "batch size"),
            ("T", count(judged["num_steps"]), "steps"),
            ("chains", count(judged["chains"]), "independent runs whose mean is taken"),
            ("ηλT", _number(judged["time"]), "time in units of the slowest direction"),
            ("L_b", _number(judged["second_moment"]), "E (H̃ + λ)² ⪯ L_b (H + λ)"),
            (
                "ρ",
                _number(judged["contraction"]),
                "least share of the mean-square error that a step takes",
            ),
            ("bias", _unstable(judged["bias"]), "what is left of the start, relative to ‖u*‖"),
            ("noise", _unstable(judged["noise"]), "root mean square after T steps, relative to ‖u*‖"),
            ("noise floor", _unstable(judged["floor"]), "root mean square for T → ∞, relative to ‖u*‖"),
            ("work", _number(judged["work"]), "gradient equivalents"),
        ],
        "conditions": [
            {
                "name": each["name"],
                "formula": each["formula"],
                "value": _unstable(each["value"]),
                "limit": _number(each["limit"]),
                "met": "met" if each["met"] else "missed",
                "verdict": each["verdict"],
            }
            for each in judged["conditions"]
        ],
    }


def _solver(row: dict[str, Any]) -> dict[str, Any]:
    reached = row["reaches"]
    return {
        "name": row["name"],
        "specification": row["specification"],
        "steps": ABSENT if row["steps"] is None else count(row["steps"]),
        "setup": _number(row["setup_work"]),
        "work": _number(row["work"]),
        "error": _number(row["error"]) if reached is not False else _unstable(row["error"]),
        "badge": _REACHES[reached][0],
        "reaches": _REACHES[reached][1],
        "basis": row["basis"],
        "note": row["note"],
    }


def _number(value: float | None) -> str:
    return number(math.nan if value is None else value)


def _unstable(value: float | None) -> str:
    """None is where nothing bounds it."""
    return "not bounded" if value is None else number(value)
