"""Writes what watches Fovea: alerts, dashboards and scrape configurations, for the chart and for a plain Prometheus.

python -m monitoring.generate            writes the files
python -m monitoring.generate --check    writes nothing; exits with 1 and names the files that differ
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from monitoring import alerts, dashboards, scraping

ROOT = Path(__file__).resolve().parent.parent
CHART, PLAIN = Path("charts/fovea/files"), Path("monitoring/prometheus")
HEADER = "# Generated from monitoring/{module}.py by `make generate`. Do not edit.\n"


def files() -> dict[Path, str]:
    """All files by their path."""
    rules = _yaml("alerts", alerts.rules())
    return {
        CHART / "alerts.yaml": rules,
        CHART / "gateways.yaml": _yaml("scraping", scraping.pod_monitor(scraping.GATEWAYS)),
        **{CHART / "dashboards" / f"{page.name}.json": dashboards.to_json(page) for page in dashboards.DASHBOARDS},
        PLAIN / "alerts.yaml": rules,
        PLAIN / "prometheus.yaml": _yaml("scraping", scraping.configuration()),
    }


def main() -> int:
    changed = {path: text for path, text in files().items() if not _holds(ROOT / path, text)}
    if "--check" in sys.argv[1:]:
        for path in changed:
            print(f"{path} is out of date; run `make generate`", file=sys.stderr)
        return 1 if changed else 0
    for path, text in changed.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)
        print(f"wrote {path}")
    return 0


def _yaml(module: str, content: object) -> str:
    return HEADER.format(module=module) + yaml.safe_dump(content, sort_keys=False, width=110, allow_unicode=True)


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
