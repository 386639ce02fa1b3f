"""The page that `make demo` leaves: what happened, in the order in which it did, with links to the reports."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

REPORTS = {
    "dataset.html": "Report of the dataset",
    "report.html": "Report of the training",
    "drift.html": "Report of the drift",
    "retrained.html": "Report of the retraining",
}
"""The files beside the page, those that are there."""
PICTURES = {"answer.jpg": "An answer, drawn by the service", "service.png": "The page that the service has for people"}
_STYLE = """
body { margin:0; color:#1f2933; font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif }
main { max-width:860px; margin:0 auto; padding:40px 28px 80px }
h1 { font-size:32px; line-height:1.2; letter-spacing:-.015em; margin:0 0 6px }
h2 { font-size:20px; margin:36px 0 4px }
.lead,figcaption,footer,td:first-child { color:#6b7785 }
b.good { color:#2c7a4b } b.bad { color:#b3372f }
figure { margin:16px 0 } figure img { max-width:100%; border-radius:4px; display:block } figcaption { font-size:13px }
table { border-collapse:collapse; font-size:14px; margin:12px 0 } td { padding:3px 18px 3px 0; vertical-align:top }
code { font:14px ui-monospace,SFMono-Regular,Menlo,monospace; overflow-wrap:anywhere }
a { color:#2f6db3 } footer { margin-top:48px; font-size:13px }
"""


def write(folder: Path) -> Path:
    """Writes index.html out of summary.json and, where the loop ran, loop.json; gives its path."""
    summary = json.loads((folder / "summary.json").read_text())
    story = folder / "loop.json"
    loop = json.loads(story.read_text()) if story.exists() else None
    parts = "\n".join(_page(folder, summary, loop))
    page = folder / "index.html"
    page.write_text(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Fovea: the demo</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{parts}\n</main>\n</body>\n"
        "</html>\n"
    )
    return page


def sentences(summary: Mapping[str, Any], loop: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What happened, as headings with a sentence or two each, for people who see Fovea for the first time."""
    data, metrics, serving = summary["dataset"], summary["metrics"], summary["serving"]
    yield (
        "Labelled images became a dataset",
        f"{data['images']} microscope images with {data['annotations']:,} labelled cells were read, checked and split; "
        f"this version of them never changes.",
    )
    asked = ", ".join(f"{each['metric']} {_bound(each)}" for each in summary["successCriteria"])
    yield (
        "A detector was trained",
        f"On the {data['splits']['test']} test images, new to it, its mAP50 is {metrics['test/mAP50']:.3f}. "
        f"The manifest asks for {asked}; a model that misses that is never served.",
    )
    counts = ", ".join(f"{count} {name}" for name, count in serving["objects"].items())
    where = (
        f" at {serving['url']}; 95 of 100 requests take at most {serving['latencyP95Milliseconds']:g} ms"
        if ("url" in serving)
        else ""
    )
    yield "It answers", f"In {serving['image']} it finds {counts}{where}."
    if loop is None:
        return
    usual, detected, event = loop["usual"], loop["detected"], loop["retraining"]
    before, after = loop["before"], loop["after"]
    yield (
        "The images changed, and that was noticed",
        f"A usual day: drift {usual['state']}. Then the laboratory changed its stain and its lamp, and the F1 of the "
        f"answers fell to {before['f1']:.2f}. Drift: {detected['state']} ({detected['message']}).",
    )
    added = loop["versions"][-1]["images"] - loop["versions"][0]["images"]
    yield (
        "The model learned from what people said",
        f"{added} of the new images were labelled through the feedback API and became a dataset version. The served "
        f"model was trained on it for a short while, as run {event.get('run', '-')}, and compared with what serves: "
        f"{event['message']}.",
    )
    tried = [f"{each['phase']} at {each.get('weight', 0)} %" for each in loop["rollout"]]
    yield (
        "The better model took over" if event["outcome"] == "Promoted" else "The model that serves has stayed",
        f"Outcome: {event['outcome']}"
        + (f", by way of {', '.join(tried)}" if tried else "")
        + ". The same changed images "
        f"are answered with an F1 of {after['f1']:.2f} now, where it was {before['f1']:.2f}. Nobody drove any of this: "
        f"it took {loop['minutes']:g} minutes from the manifest to here.",
    )


def _page(folder: Path, summary: Mapping[str, Any], loop: Mapping[str, Any] | None) -> Iterator[str]:
    yield "<h1>From labelled images to a model that looks after itself</h1>"
    yield f'<p class="lead">What <code>make demo</code> did on {escape(summary["cluster"])}</p>'
    links = [f'<a href="{name}">{title}</a>' for name, title in REPORTS.items() if (folder / name).exists()]
    yield f"<p>{' · '.join(links)}</p>"
    for title, words in sentences(summary, loop):
        yield f"<h2>{escape(title)}</h2>\n<p>{escape(words)}</p>"
        if title == "It answers":
            yield from _pictures(folder)
    if loop is not None:
        yield "<h2>The rollout's story</h2>"
        gates = [gate["message"] for each in loop["rollout"] for gate in each.get("analysis", ())]
        yield from (f"<p>{escape(words)}</p>" for words in dict.fromkeys(gates))
        yield _table([(each["time"][11:19], each["reason"], each["message"]) for each in loop["events"]])
    spent = {**summary["seconds"], **(loop["seconds"] if loop is not None else {})}
    yield "<h2>Seconds</h2>"
    yield _table([(name, f"{value:.0f}") for name, value in spent.items()])
    yield "<footer>summary.json and loop.json beside this page have all figures.</footer>"


def _pictures(folder: Path) -> Iterator[str]:
    for name, caption in PICTURES.items():
        if (file := folder / name).exists():
            kind = "png" if file.suffix == ".png" else "jpeg"
            content = base64.b64encode(file.read_bytes()).decode()
            image = f'<img alt="{caption}" src="data:image/{kind};base64,{content}">'
            yield f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _bound(criterion: Mapping[str, Any]) -> str:
    return f"of at least {criterion['min']:g}" if "min" in criterion else f"of at most {criterion['max']:g}"
