"""The `verify` section as typed data.

Guarantees: a size is one that `bytes_of` reads, and an expected fingerprint has the digits that reports write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import Problems
from ..schema import ExpectConfig, VerifyConfig
from ..text.lines import Fix, line
from ..text.wording import bytes_of, safe_text
from .sections import read_section


def read_verify(raw: Any, device: str, problems: Problems) -> VerifyConfig:
    """Checks the section; invalid settings are problems.

    Args:
        raw: The section as it is in the config.
        device: The job's device.
        problems: Collects what is wrong.
    """
    if not isinstance(raw, Mapping):
        problems.add(f"'verify' is {safe_text(raw)!r}, expected a mapping", Fix("verify.forward=false"))
        return VerifyConfig()
    plain = {key: value for key, value in raw.items() if key not in ("input", "expect", "keep")}
    verify = read_section(VerifyConfig, plain, "verify", problems)
    keep = raw.get("keep")
    verify.keep = verify.keep if keep is None else str(keep)
    verify.input = raw.get("input")
    expect = raw.get("expect")
    verify.expect = read_section(ExpectConfig, {} if expect is None else expect, "verify.expect", problems)
    verify.fingerprint = _fingerprint(verify.fingerprint, device, problems)
    if bytes_of(verify.keep) is None:
        sizes = "expected a size such as 16MB, or 0 to write none"
        problems.add(f"'verify.keep' is '{safe_text(verify.keep)}', {sizes}", Fix("verify.keep=16MB"))
    return verify


def _fingerprint(expected: str | None, device: str, problems: Problems) -> str | None:
    """Returns the digits of an expected fingerprint as reports write them."""
    if expected is None:
        return None
    digits = expected.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{32}", digits):
        fix = Fix("verify.fingerprint=null", "accepts any weights")
        if re.fullmatch(r"[0-9a-f]{64}", digits):
            fix = line("checkpoint.sha256", digits, note="if it is the digest of the file")
        problems.add(f"'verify.fingerprint' is '{safe_text(expected)}', expected 32 hexadecimal digits", fix)
    elif device == "meta":
        unread = "'verify.fingerprint' needs the weights, and device=meta reads none"
        problems.add(unread, Fix("device=cpu"), Fix("verify.fingerprint=null"))
    return digits
