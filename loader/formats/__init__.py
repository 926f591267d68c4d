"""Checkpoint files, read as data: what a file is, and its tree of entries.

Guarantees: reading runs nothing that a file names and imports nothing for it.
"""
