"""Zip and tar archives, read within bounds."""
