"""The queries of a dashboard as a file of recording rules, which promtool can check: `queries.py DASHBOARD.json`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# what Grafana puts in for them is a duration too
_DURATIONS = ("$__rate_interval", "$__interval")


def queries(part: Any) -> Iterator[str]:
    """Every `expr` of ensembles and annotations, in order."""
    if isinstance(part, dict):
        if isinstance(part.get("expr"), str):
            yield part["expr"]
        for value in part.values():
            yield from queries(value)
    elif isinstance(part, list):
        for each in part:
            yield from queries(each)


def rules(dashboard: Any) -> dict[str, Any]:
    named = [{"record": f"query:{number}", "expr": timed(query)} for number, query in enumerate(queries(dashboard))]
    return {"groups": [{"name": "dashboard", "rules": named}]}


def timed(query: str) -> str:
    for variable in _DURATIONS:
        query = query.replace(variable, "5m")
    return query


if __name__ == "__main__":
    json.dump(rules(json.loads(Path(sys.argv[1]).read_text())), sys.stdout)
