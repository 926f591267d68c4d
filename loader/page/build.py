"""From the content of a page to one HTML file that opens offline.

Guarantees: every text is escaped; data for the script is JSON in a block that is never parsed as HTML. The policy of
the page allows no request, one script and one style sheet, each by its hash. A page above its size is made again with
less of each text. Writes are atomic.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ..files.write import write_whole
from .figures import Picture
from .jobs import Limits

MOST_BYTES = 2_000_000
"""The largest page of up to 200 jobs; one of more jobs may be larger in proportion."""

_JOBS = 200
_TRIES = 8
_UNSAFE = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026"}


@dataclass(frozen=True, slots=True)
class Content:
    """A page before it is HTML."""

    template: str
    """``sweep.html`` or ``run.html``."""
    title: str
    values: Mapping[str, Any]
    """What the template shows."""
    pictures: list[Picture] = field(default_factory=list)
    jobs: int = 1


def write_page(path: Path, make: Callable[[Limits], Content]) -> Path:
    """Writes a page.

    Args:
        path: The file, which is replaced.
        make: Makes the content with at most so much of each text.

    Raises:
        OSError: It cannot be written.
    """
    limits = Limits()
    for _ in range(_TRIES):
        content = make(limits)
        page = render(content)
        room = MOST_BYTES * max(1.0, content.jobs / _JOBS)
        if len(page) <= room:
            break
        limits = limits.scaled(min(0.7, 0.9 * room / len(page)))
    write_whole(path, page)
    return path


def render(content: Content) -> bytes:
    """Returns a page as UTF-8."""
    script, style = _script(), _resource("template/page.css")
    pictures = [
        {
            "id": f"picture-{at}",
            "kind": picture.kind,
            "title": picture.title,
            "sentences": picture.sentences,
            "drawn": bool(picture.data),
        }
        for at, picture in enumerate(content.pictures)
    ]
    drawn = {
        f"picture-{at}": {"kind": picture.kind, "title": picture.title, **picture.data}
        for at, picture in enumerate(content.pictures)
        if picture.data
    }
    html = (
        _environment()
        .get_template(content.template)
        .render(
            **content.values,
            title=content.title,
            pictures=pictures,
            data=Markup(json_block(drawn)),  # noqa: S704  # its own escaping: see there
            policy=policy(script, style),
            script=Markup(script),  # noqa: S704  # the package's own
            style=Markup(style),  # noqa: S704  # likewise
        )
    )
    return html.encode("utf-8", "backslashreplace")


def json_block(content: Any) -> str:
    """Writes JSON that no HTML parser can mistake for a tag, an entity or the end of a script."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    # ASCII alone: U+2028 and U+2029 are escaped as well.
    return text.translate({ord(sign): escape for sign, escape in _UNSAFE.items()})


def policy(script: str, style: str) -> str:
    """Returns the Content-Security-Policy of a page with this script and this style sheet."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


@functools.cache
def _script() -> str:
    return f"{_resource('vendor/charts.min.js')}\n{_resource('template/page.js')}"


@functools.cache
def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    def template(name: str) -> str:
        return _resource(f"template/{name}")

    return Environment(
        loader=FunctionLoader(template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
