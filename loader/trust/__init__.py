"""The names that code from outside may use, for configs and for pickles."""
