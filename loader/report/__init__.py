"""The report of a job: `data` holds and writes it, `fill` fills it, `terminal` shows it; `streams` protects prints."""
