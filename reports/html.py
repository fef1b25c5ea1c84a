"""What all pages share: their templates, pictures inside the page, and what a run tells of itself."""

import base64
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from reports.formats import duration, setting


def template(name: str) -> Template:
    """A template of the folder `templates`."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        # Labels and reasons are whatever a solver's author wrote; Markdown is read as it stands.
        autoescape=lambda name: not (name or "").endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["unbroken"] = _unbroken
    templates.filters["breakable"] = _breakable
    templates.filters["cell"] = _cell
    return templates.get_template(name)


def image(path: Path) -> str:
    """A PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def when(run: dict[str, Any]) -> str:
    """ "2026-05-04 12:30, took 3.2 min" as far as the run tells."""
    started, finished = (_moment(run.get(key)) for key in ("started", "finished"))
    if started is None:
        return ""
    day = started.strftime("%Y-%m-%d %H:%M %Z").strip()
    if finished is None or finished == started or (started.tzinfo is None) != (finished.tzinfo is None):
        return day
    return f"{day}, took {duration((finished - started).total_seconds())}"


def is_unfinished(run: dict[str, Any]) -> bool:
    """Whether the run was interrupted, or ended otherwise before its end, as far as it tells."""
    return bool(run.get("interrupted")) or run.get("finished", True) is None


def processor(run: dict[str, Any]) -> str:
    """What computed, as far as the run tells: the GPU of one that was asked for it, or the processor."""
    machine, asked = run.get("machine") or {}, run.get("experiment") or {}
    on_gpu = str(asked.get("device", "cpu")).startswith("cuda")
    return (machine.get("gpu") if on_gpu else machine.get("processor")) or ""


def threads(machine: dict[str, Any]) -> str:
    """ "2 threads", as far as the run tells."""
    number = machine.get("threads")
    return f"{number} thread{'' if number == 1 else 's'}" if number else ""


def environment(run: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(heading, rows) for what the run was made with; nested values flattened to dotted names."""
    groups = []
    for name in ("machine", "versions", "git"):
        known = run.get(name) or {}
        groups.append((name, list(_flat(known).items())))
    names = ("command", "started", "finished", "interrupted", "seeds")
    groups.append(("run", [(name, plain(run[name])) for name in names if run.get(name) is not None]))
    return [(heading, rows) for heading, rows in groups if rows]


def plain(value: Any) -> str:
    """A setting or a fact as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, float):
        return setting(value)
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = plain(value)
    return flat


def _unbroken(text: str) -> str:
    """Keeps a number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=%|×|(?:µs|ms|s|min|h)\b)", "\u00a0", text)


def _breakable(label: str) -> Markup:
    """Lets a narrow column break a solver's or a problem's label between its settings, not within a word."""
    return Markup(re.sub(r"([(,=])", r"\1<wbr>", str(escape(label))))


def _cell(text: str) -> str:
    """In a table of Markdown, where a bar would begin the next cell."""
    return text.replace("|", r"\|")
