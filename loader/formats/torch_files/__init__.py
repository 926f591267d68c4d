"""The files that torch itself writes."""
