"""Trackers: a sweep's jobs as the runs of another tool."""
