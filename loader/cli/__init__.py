"""The command line: entry point, jobs, help and completion."""
