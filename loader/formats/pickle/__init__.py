"""Pickles, read as data: nothing they name is imported or called, unless the user admits it (`revive`)."""
