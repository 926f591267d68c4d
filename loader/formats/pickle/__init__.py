"""Pickles, read as data: nothing that one names is imported or called."""
