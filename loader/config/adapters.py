"""The adapters of a config as records.

Guarantees: as in `sections`; each adapter needs a name and a path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import Problems
from ..schema import AdapterConfig
from ..text.lines import line
from ..text.wording import safe_text
from .sections import read_section


def read_adapters(raw: Any, where: str, problems: Problems) -> dict[str, AdapterConfig]:
    """Returns the adapters by name, in order; invalid ones are problems."""
    if not isinstance(raw, Mapping):
        problems.add(
            f"'{where}' is {safe_text(raw)!r}, expected a mapping", line(where, {"lora": {"path": "FOLDER"}}, "+")
        )
        return {}
    return {str(name): read_section(AdapterConfig, own, f"{where}.{name}", problems) for name, own in raw.items()}
