"""The HTML page of a sweep or a run."""
