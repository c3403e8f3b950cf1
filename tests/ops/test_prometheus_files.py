"""contrib/prometheus: Prometheus accepts the files, and the rules speak of metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path


def test_prometheus_accepts_the_scrape_example(root: Path, tool) -> None:
    config = root / "contrib/prometheus/prometheus.yml"
    result = tool("promtool", "check", "config", config)
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_accepts_the_alert_rules(root: Path, tool) -> None:
    rules = root / "contrib/prometheus/rolemesh.rules.yml"
    result = tool("promtool", "check", "rules", rules)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_metric_in_the_rules_is_documented(root: Path) -> None:
    rules = (root / "contrib/prometheus/rolemesh.rules.yml").read_text()
    documented = (root / "docs/metrics.md").read_text()
    names = set(re.findall(r"\brolemesh_[a-z_]+\b", rules))
    assert names
    unknown = {name for name in names if name.removesuffix("_bucket") not in documented}
    assert unknown == set()
