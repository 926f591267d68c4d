"""Readers of the files that torch itself writes."""
