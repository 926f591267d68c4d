"""Text that people read or type: wording, redaction, lines to paste; without torch and Hydra."""
