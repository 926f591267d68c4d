"""What a run says: `data` holds it, `terminal` shows it, `files` keeps it."""
