"""The charts that are shipped: what they are, where they are from, and that they came from there."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import loader

VENDOR = Path(loader.__file__).parent / "page" / "vendor"
DIGEST = "d95fbcdfe7ab76d926fb8042d84d51b55a58ccc86366660326d28f275e800086"
"""Of charts.min.js, as ``npm ci && npm run build`` makes it; change it with the versions."""


def test_the_charts_are_those_that_were_built() -> None:
    assert hashlib.sha256((VENDOR / "charts.min.js").read_bytes()).hexdigest() == DIGEST


def test_the_charts_name_their_versions_and_licences() -> None:
    lock = json.loads((VENDOR / "package-lock.json").read_text())["packages"]
    head = (VENDOR / "charts.min.js").read_text().partition("\n")[0]
    licences = (VENDOR / "LICENSES.txt").read_text()
    for name, licence in {"echarts": "Apache-2.0", "zrender": "BSD-3-Clause", "tslib": "0BSD"}.items():
        assert lock[f"node_modules/{name}"]["license"] == licence
        assert f"{name} {lock[f'node_modules/{name}']['version']} ({licence})" in head
        assert f"{name} {lock[f'node_modules/{name}']['version']}, LICENSE" in licences
    assert "echarts 6.1.0, NOTICE" in licences
    assert "echarts 6.1.0, licenses/LICENSE-d3" in licences


def test_the_lock_names_every_package_by_its_digest() -> None:
    lock = json.loads((VENDOR / "package-lock.json").read_text())["packages"]
    assert all(re.match("sha512-", package["integrity"]) for name, package in lock.items() if name)
    assert "resolved" not in (VENDOR / "package-lock.json").read_text()


def test_the_script_can_stand_in_a_page() -> None:
    script = (VENDOR / "charts.min.js").read_text(encoding="ascii")
    assert not re.search(r"</script|<!--|\r", script, re.IGNORECASE)
    assert "eval(" not in re.sub(r"\w+eval\(", "", script)
