"""publish(): a run's report becomes a part of a gallery, and the gallery's index is built again."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from reports.conclusions import read_conclusions
from reports.folders import whole_folder
from reports.formats import count
from reports.html import is_unfinished, plain, processor, template, threads, when

# A figure in a gallery takes no more.
LARGEST_PNG = 200_000
ORIGIN = "origin.json"
TABLES = ("comparison.csv", "profile.csv", "choices.csv")
_COPIED = (
    "*.html", "*.txt", "*.csv", "*.json", "*.png", "figures/*.png", *(f"tables/{name}" for name in TABLES)
)  # fmt: skip


def publish(
    report: Path, run: dict[str, Any], gallery: Path, name: str | None = None, *, unfinished: bool = False
) -> Path:
    """Copy a report's page, figures and tables into a folder of `gallery`, and build its index again.

    `run` is the content of run.json, kept beside as origin.json: command, versions, machine and date. The
    folder is called `name`, by default after the experiment, with its scale unless that is small; an earlier
    one is replaced. Returns the path of the folder. Raises ValueError for a run that was interrupted, unless
    `unfinished` says that it may be, which the index then tells; for one of a study at no scale of its own
    unless it has a `name`, and a figure that cannot be made as small as LARGEST_PNG; OSError where the
    gallery cannot be written.
    """
    if is_unfinished(run) and not unfinished:
        raise ValueError(
            f"the run of {report} was interrupted: finish it with --resume before it is published, or say "
            "--unfinished to publish what it measured"
        )
    asked = run.get("experiment") or {}
    if name is None:
        if "study" in asked and not asked.get("scale"):
            raise ValueError(
                f"the run of {report} has problems or settings of its own: name its folder in the gallery "
                "with --name, so that it does not take the place of the experiment as it is"
            )
        scale = asked.get("scale") or "small"
        own = asked.get("name") or "custom"
        name = own if scale == "small" else f"{own}_{scale}"
    folder = gallery / name
    _read_entries(gallery)  # what is damaged there is told before anything is written
    found = [path for pattern in _COPIED for path in sorted(report.glob(pattern))]
    parts = {path.name for path in found} | {ORIGIN, *TABLES}
    if (folder / ORIGIN).exists():
        # Published before, perhaps with parts that there are no longer.
        parts |= {entry.name for entry in folder.iterdir()}
    with whole_folder(folder, parts) as fresh:
        for path in found:
            if path.suffix == ".png":
                (fresh / path.name).write_bytes(small_png(path))
            else:
                shutil.copyfile(path, fresh / path.name)
        text = json.dumps(run, indent=2, ensure_ascii=False)
        (fresh / ORIGIN).write_text(f"{text}\n", encoding="utf-8")
    build_gallery(gallery)
    return folder


def build_gallery(gallery: Path) -> Path:
    """Write index.html and README.md of a folder whose folders are published runs; the path of the first."""
    entries = _read_entries(gallery)
    conclusions = [
        {"page": entry["page"], "title": entry["title"], "each": each}
        for entry in entries
        for each in entry["conclusions"]
    ]
    for name, source in (("README.md", "gallery.md.j2"), ("index.html", "gallery.html.j2")):
        text = template(source).render(
            title="Gallery of experiments", entries=entries, conclusions=conclusions, environment=[]
        )
        fresh = gallery / f".{name}.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(gallery / name)
    return gallery / "index.html"


def small_png(path: Path) -> bytes:
    """The PNG file with so few colours that it takes at most LARGEST_PNG bytes; ValueError where none do."""
    data = path.read_bytes()
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    for colours in (256, 128, 64, 32):
        if len(data) <= LARGEST_PNG:
            break
        file = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        data = file.getvalue()
    if len(data) > LARGEST_PNG:
        raise ValueError(
            f"{path} takes {count(len(data))} bytes with 32 colours, and a gallery's figure at most "
            f"{count(LARGEST_PNG)}: draw it smaller"
        )
    return data


def _read_entries(gallery: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(gallery.glob(f"*/{ORIGIN}")):
        try:
            found.append(_entry(path.parent, json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path.parent} is damaged ({error}): publish it again, or remove it") from error
    return found


def _entry(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    asked, machine, versions = (run.get(key) or {} for key in ("experiment", "machine", "versions"))
    scale = asked.get("scale") or ""
    told = folder / "conclusions.json"
    findings = folder / "findings.txt"
    made = [
        when(run),
        processor(run),
        threads(machine),
        *(
            f"{name} {versions[name]}"
            for name in ("ihvp-bench", "torch")
            # A checkout may be run without being installed.
            if versions.get(name, "not installed") != "not installed"
        ),
        _revision(run.get("git") or {}),
    ]
    return {
        "name": folder.name,
        "title": (asked.get("title") or folder.name) + (f" ({scale} scale)" if scale == "paper" else ""),
        "description": asked.get("description") or "",
        "scale": scale,
        "problems": [plain(_problem(entry)) for entry in asked.get("problems") or []],
        "page": f"{folder.name}/index.html",
        "command": run.get("command") or "",
        "unfinished": is_unfinished(run),
        "made": " · ".join(part for part in made if part),
        "findings": _paragraphs(findings) if findings.exists() else [],
        "conclusions": read_conclusions(told) if told.exists() else [],
        # Not those of single problems, of which there may be many.
        "figures": [
            f"{folder.name}/{path.name}"
            for path in sorted(folder.glob("*.png"))
            if not path.name.startswith("error-")
        ],
    }


def _revision(git: dict[str, Any]) -> str:
    if not git.get("revision"):
        return ""
    return f"revision {git['revision'][:10]}{' with uncommitted changes' if git.get('dirty') else ''}"


def _problem(entry: dict[str, Any]) -> str:
    parameters = ", ".join(
        f"{name}={plain(value)}" for name, value in (entry.get("parameters") or {}).items()
    )
    return f"{entry['name']}({parameters})" if parameters else str(entry["name"])


def _paragraphs(path: Path) -> list[tuple[str, str]]:
    """(heading, paragraph) of each that stands in findings.txt."""
    found = []
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        parts = re.match(r"(.+?): (.+)", block, re.DOTALL)
        found.append((parts[1], parts[2]) if parts else ("", block))
    return found
