"""What the paper concluded, and whether it holds in the numbers of a page."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["holds", "partly", "fails", "undecided"]


@dataclass(frozen=True)
class Conclusion:
    """A claim, `where` the paper makes it ("" for ours), the `verdict`, and the `numbers` that say why."""

    claim: str
    where: str
    verdict: Verdict
    numbers: str

    @property
    def source(self) -> str:
        """Whose claim it is."""
        return f"Klochkov & Liu (2024), {self.where}" if self.where else "ours"


def together(verdicts: Iterable[bool | None]) -> Verdict:
    """Of one claim on several problems: None is a problem that decides nothing."""
    found = [verdict for verdict in verdicts if verdict is not None]
    if not found:
        return "undecided"
    return "holds" if all(found) else "partly" if any(found) else "fails"


def write_conclusions(conclusions: Iterable[Conclusion], path: Path) -> None:
    """Write them as JSON, whence a gallery reads them."""
    text = json.dumps([asdict(each) for each in conclusions], indent=2, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def read_conclusions(path: Path) -> list[Conclusion]:
    """Those that `write_conclusions` wrote."""
    return [Conclusion(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
