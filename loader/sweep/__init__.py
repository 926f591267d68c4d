"""Many jobs, each in a process of its own.

`callback` notes what a sweep is about to do, `child` runs one job apart, `records` keeps what became of it, `summary`
says how the sweep went and `table` shows it. Nothing here imports torch; only a job's own process does. Hydra makes the
callback for every run: it alone is imported where there is no sweep.
"""
