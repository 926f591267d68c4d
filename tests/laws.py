"""How many examples a property test tries."""

from __future__ import annotations

from hypothesis import settings

PROFILES = {"dev": 20, "ci": 100}
"""Examples of a property test that asks for no number, by profile."""
DEFAULT = "dev"

_FEWEST = 5


def examples(most: int) -> int:
    """Returns the number for a property test that tries this many with the profile `ci`."""
    profile = settings.default
    assert profile is not None
    return max(_FEWEST, most * profile.max_examples // PROFILES["ci"])
