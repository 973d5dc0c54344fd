"""The page that tells what to do has every alert kind, and every reason for which an image becomes a dead letter."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowgauge.domain.messages import AlertKind

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")


def literals(node: ast.expr) -> list[str]:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return [part.value.strip() for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def reasons() -> Iterator[str]:
    """The longest fixed part of each cause that an unreadable image or a refused record is given."""
    for root in ("core", "streams", "adapters"):
        for path in (ROOT / root).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
                    continue
                cause = {"UnreadableImage": 0, "Refused": 1}.get(node.func.id)
                if cause is not None and (found := literals(node.args[cause])):
                    yield max(found, key=len).strip(" .:,(")


@pytest.mark.parametrize("kind", AlertKind)
def test_every_alert_kind_is_explained(kind: AlertKind) -> None:
    assert f"| `{kind.value}` |" in PAGE


def test_every_dead_letter_reason_is_explained() -> None:
    found = set(reasons())
    assert len(found) > 10
    assert {reason for reason in found if reason not in PAGE} == set()
