"""Text that people read or type: wording, redaction and lines to paste, without torch and Hydra."""
