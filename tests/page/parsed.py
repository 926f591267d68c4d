"""A page as an HTML parser sees it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Parsed(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.setdefault(tag, [])
        if tag in ("script", "style"):
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        tag = self._open[-1] if self._open else ""
        if tag in ("script", "style"):
            self.texts[tag][-1] += data
        else:
            self.texts.setdefault(tag, []).append(data)

    @property
    def text(self) -> str:
        """All text that a reader sees."""
        return " ".join(" ".join(texts) for tag, texts in self.texts.items() if tag not in ("script", "style"))

    @property
    def data(self) -> dict[str, Any]:
        """The block of data."""
        return dict(json.loads(self.texts["script"][0]))

    def attributes(self, name: str) -> list[str]:
        """The values of an attribute, wherever it is."""
        return [value or "" for _, found in self.tags for key, value in found.items() if key == name]

    def pictures(self, kind: str) -> list[dict[str, Any]]:
        """The data of the pictures of one kind."""
        return [picture for picture in self.data.values() if picture["kind"] == kind]


def parsed(path: Path) -> Parsed:
    """Parses a page."""
    return Parsed(path.read_text(encoding="utf-8"))
