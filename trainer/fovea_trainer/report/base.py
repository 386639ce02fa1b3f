"""Self-contained HTML reports: one template, and helpers that turn pictures, figures and tables into HTML.

Everything is embedded, so that a report is one file that can be mailed or opened from an object store.
Text that comes from data (class and file names) is escaped: reports of hostile input are harmless.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import jinja2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = NDArray[np.uint8]
"""RGB picture, uint8, [height, width, 3]."""
Tone = Literal["good", "bad", "warn", "neutral"]

PALETTE = (
    "#2f6db3", "#d1603d", "#3f8f5b", "#8e5ea2", "#c9a227", "#3a9ca6",
    "#b0527c", "#6b7f2a", "#7a6a58", "#4b5fd1", "#a8432f", "#5b8f8a",
)  # fmt: skip
"""Colours of the classes, repeated after the last; distinct on white and on photographs."""
INK, MUTED = "#1f2933", "#6b7785"
JPEG_QUALITY = 85
PICTURE_PIXELS = 480
"""Longer side of a picture of the dataset in a report."""
CLASSES_IN_FIGURES = 12
"""Classes that a figure shows; the tables show all."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report: a heading, a sentence below it, and HTML made by the helpers of this module."""

    title: str
    body: Markup
    lead: str = ""

    @property
    def anchor(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure of the head line of a report: `364` `images`."""

    value: str
    name: str
    tone: Tone = "neutral"


def render(
    title: str, sections: Sequence[Section], *, kind: str = "", subtitle: str = "", facts: Sequence[Fact] = ()
) -> str:
    """One HTML document.

    Args:
        title: Name of the subject, such as `blood-cells`.
        sections: The parts, in order; more than three get a table of contents.
        kind: What the report is about, a few words above the title: `Dataset quality report`.
        subtitle: A sentence below the title, such as the problem's statement.
        facts: The figures that a reader wants first.
    """
    return _template().render(title=title, sections=sections, kind=kind, subtitle=subtitle, facts=facts)


@cache
def _template() -> jinja2.Template:
    text = Path(__file__).with_name("base.html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text)


# --- Pieces of HTML -----------------------------------------------------------------------------------------


def join(*parts: Markup) -> Markup:
    """The parts one below the other."""
    return Markup("\n").join(parts)


def paragraph(text: str) -> Markup:
    """A paragraph of plain text."""
    return Markup("<p>{}</p>").format(text)


def bullets(items: Sequence[str | Markup]) -> Markup:
    """A list."""
    return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(item) for item in items))


def badge(text: str, tone: Tone = "neutral") -> Markup:
    """A word with a coloured ground: `met`, `missed`."""
    return Markup('<span class="badge {}">{}</span>').format(tone, text)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> Markup:
    """A table; numbers are set flush right. Cells may be Markup. Without column titles it has no head."""
    numeric = [_is_number(value) for value in rows[0]] if rows else [False] * len(columns)
    titles = Markup("").join(
        Markup("<th{}>{}</th>").format(Markup(' class="number"') if flush else "", column)
        for column, flush in zip(columns, numeric, strict=True)
    )
    head = Markup("<thead><tr>{}</tr></thead>").format(titles) if any(columns) else Markup("")
    body = Markup("").join(Markup("<tr>{}</tr>").format(Markup("").join(_cell(value) for value in row)) for row in rows)
    title = Markup("<caption>{}</caption>").format(caption) if caption else Markup("")
    return Markup('<div class="scroll"><table>{}{}<tbody>{}</tbody></table></div>').format(title, head, body)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> Markup:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return Markup("<td>{}</td>").format("–" if value is None else value)
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return Markup('<td class="number">{}</td>').format(text)


def picture(image: Image, caption: str = "", *, width: int | None = None) -> Markup:
    """A picture with a caption; `width` in CSS pixels."""
    style = Markup(' style="width:{}px"').format(width) if width else Markup("")
    return Markup('<figure{}><img src="{}" alt="{}" loading="lazy"><figcaption>{}</figcaption></figure>').format(
        style, embed_image(image), caption, caption
    )


def gallery(pictures: Sequence[Markup]) -> Markup:
    """Pictures side by side, wrapped to the width of the window."""
    return Markup('<div class="gallery">{}</div>').format(Markup("").join(pictures))


def columns(*parts: Markup) -> Markup:
    """Parts side by side where there is room."""
    return Markup('<div class="columns">{}</div>').format(
        Markup("").join(Markup("<div>{}</div>").format(part) for part in parts)
    )


def legend(classes: Sequence[str]) -> Markup:
    """The colour of each class."""
    return Markup('<p class="legend">{}</p>').format(
        Markup("").join(
            Markup('<span><i style="background:{}"></i>{}</span>').format(color(index), name)
            for index, name in enumerate(classes)
        )
    )


# --- Pictures and figures -----------------------------------------------------------------------------------


def embed_image(rgb: Image, *, lossless: bool = False) -> str:
    """A data URI: JPEG, or PNG where every pixel counts (`lossless`). `rgb` is uint8 [H, W, 3]."""
    suffix, media, options = (
        (".png", "png", []) if lossless else (".jpg", "jpeg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    )
    _, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    return f"data:image/{media};base64,{base64.b64encode(data.tobytes()).decode()}"


def embed_figure(fig: Figure) -> Markup:
    """Inline SVG of a matplotlib figure. The same figure gives the same text."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "fovea", "svg.fonttype": "none", "font.family": "sans-serif"}):
        fig.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return Markup('<div class="chart">{}</div>').format(Markup(text[text.index("<svg") :]))


def new_figure(width: float = 6.0, height: float = 2.8) -> tuple[Figure, Axes]:
    """A figure in the house style and its axes; sizes in inches. It needs no display and no closing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c5ccd3")
    axes.tick_params(colors=MUTED, labelsize=8, length=3)
    axes.grid(axis="y", color="#e6eaee", linewidth=0.7)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=MUTED, size=9)
    return figure, axes


def color(index: int) -> str:
    """Colour of a class as `#rrggbb`."""
    return PALETTE[index % len(PALETTE)]


def rgb(index: int) -> tuple[int, int, int]:
    """Colour of a class as red, green, blue, 0 to 255."""
    return (int(color(index)[1:3], 16), int(color(index)[3:5], 16), int(color(index)[5:7], 16))


def fit(image: Image, longest: int) -> tuple[Image, float]:
    """The picture with its longer side at most `longest` pixels, and the scale that was applied."""
    scale = min(1.0, longest / max(image.shape[:2]))
    if scale == 1.0:
        return image, scale
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def beside(left: Image, right: Image) -> Image:
    """Two pictures of the same height side by side."""
    gap = np.full((left.shape[0], 6, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def count(number: int, one: str, many: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number:,} {one if number == 1 else many}"


def rounded(value: float | None) -> float | None:
    """Four significant digits."""
    return None if value is None else float(f"{value:.4g}")


def draw_boxes(
    image: Image,
    boxes: NDArray[np.floating] | Sequence[Sequence[float]],
    labels: Sequence[int] | NDArray[np.integer],
    classes: Sequence[str],
    scores: Sequence[float] | NDArray[np.floating] | None = None,
) -> Image:
    """A copy of the picture with boxes and class names drawn.

    Args:
        image: RGB uint8 [H, W, 3].
        boxes: [N, 4] as x1, y1, x2, y2 in pixels of `image`.
        labels: [N] class indices.
        classes: Names of the classes; for a single class the names are left out.
        scores: [N] confidences, drawn behind the name.
    """
    canvas = np.ascontiguousarray(image).copy()
    thick = max(1, round(max(canvas.shape[:2]) / 400))
    for index, (box, label) in enumerate(zip(np.asarray(boxes, float).reshape(-1, 4), labels, strict=True)):
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), rgb(int(label)), thick, cv2.LINE_AA)
        name = classes[int(label)] if len(classes) > 1 else ""
        text = f"{name} {scores[index]:.2f}".strip() if scores is not None else name
        if text:
            _tag(canvas, text, (x1, y1), rgb(int(label)))
    return canvas


def _tag(canvas: Image, text: str, corner: tuple[int, int], ground: tuple[int, int, int]) -> None:
    """Writes white text on a coloured ground above a box, or inside where there is no room above."""
    scale = max(0.32, max(canvas.shape[:2]) / 1600)
    text = text.encode("ascii", "replace").decode()  # OpenCV's built-in fonts hold ASCII only
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = min(max(corner[0], 0), max(canvas.shape[1] - width, 0))
    y = max(corner[1], height + base)
    cv2.rectangle(canvas, (x, y - height - base), (x + width, y), ground, cv2.FILLED)
    cv2.putText(canvas, text, (x, y - base // 2 - 1), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)


def draw_mask(
    image: Image, mask: NDArray[np.integer], *, opacity: float = 0.45, ignore: int = 255, first: int = 0
) -> Image:
    """A copy of the picture with each class's pixels tinted and outlined.

    Args:
        image: RGB uint8 [H, W, 3].
        mask: [H, W] class index of each pixel.
        opacity: Of the tint, 0 to 1.
        ignore: Class index that is left as it is.
        first: Classes below this index are left as they are; 1 keeps a background clear.
    """
    canvas = np.ascontiguousarray(image).copy()
    for index in np.unique(mask):
        if index == ignore or index < first:
            continue
        _lay(canvas, mask == index, int(index), opacity)
    return canvas


def draw_objects(
    image: Image, masks: Iterable[NDArray[np.bool_]], labels: Sequence[int] | NDArray[np.integer]
) -> Image:
    """A copy of the picture with each object tinted in the colour of its class and outlined, so that two are seen as
    two.

    Args:
        image: RGB uint8 [H, W, 3].
        masks: The pixels of each object, of any size [h, w]: they are brought to that of the picture.
        labels: Their class indices.
    """
    canvas = np.ascontiguousarray(image).copy()
    size = (canvas.shape[1], canvas.shape[0])
    for mask, label in zip(masks, labels, strict=True):
        fitted = np.asarray(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST), np.uint8)
        _lay(canvas, fitted > 0, int(label), 0.45)
    return canvas


def _lay(canvas: Image, where: NDArray[np.bool_], label: int, opacity: float) -> None:
    """Tints and outlines a region."""
    canvas[where] = (canvas[where] * (1 - opacity) + np.array(rgb(label)) * opacity).astype(np.uint8)
    outlines, _ = cv2.findContours(where.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas, outlines, -1, rgb(label), 1, cv2.LINE_AA)


__all__ = [
    "CLASSES_IN_FIGURES", "PICTURE_PIXELS", "Fact", "Image", "Section", "badge", "beside", "bullets", "color",
    "columns", "count", "draw_boxes", "draw_mask", "draw_objects", "embed_figure", "embed_image", "escape", "fit",
    "gallery", "join", "legend", "new_figure", "paragraph", "picture", "render", "rgb", "rounded", "table",
]  # fmt: skip
