"""How every figure looks, and how it is saved: as PNG at 200 dpi and as PDF."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import seaborn
from matplotlib.figure import Figure
from PIL import Image

DPI = 200
COLOURS = 256


@contextmanager
def paper_style() -> Iterator[None]:
    """Figures made in this block look alike."""
    style = {
        **seaborn.axes_style("ticks"),
        **seaborn.plotting_context("notebook", font_scale=0.85),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "0.92",
        "grid.linewidth": 0.8,
        "axes.edgecolor": "0.25",
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "legend.fontsize": 9.5,
        "pdf.fonttype": 42,  # letters stay letters, as publishers ask
    }
    with matplotlib.rc_context(style):
        yield


def save(figure: Figure, stem: Path) -> None:
    """Writes `stem`.png, of COLOURS, and `stem`.pdf."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with Image.open(drawn) as picture:
        # A third of the bytes, and nothing to be seen of it.
        few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(stem.with_name(f"{stem.name}.png"), optimize=True, dpi=(DPI, DPI))
    figure.set_layout_engine("none")  # the layout stands; finding it again would cost as much as drawing
    write_pdf(figure, stem.with_name(f"{stem.name}.pdf"))


def write_pdf(figure: Figure, path: Path) -> None:
    """Without the date, so that the same rows give the same file."""
    figure.savefig(path, metadata={"CreationDate": None})


def plain_label(label: str) -> str:
    """Text that matplotlib shows as it stands, where a "$" would begin a formula."""
    return label.replace("$", r"\$")
