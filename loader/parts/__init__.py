"""From a path or URL to an opened file, and to the keys that a part of the model is offered."""
