"""Many jobs, each in its own process.

`callback` notes the jobs of a sweep before it starts, `folders` refuses jobs that would overwrite each other, `child`
runs one job, `records` keeps its outcome, and `summary` writes and shows all of them. Nothing here imports torch; only
a job's own process does. Hydra makes the callback for every run; it imports the others only for a sweep.
"""
