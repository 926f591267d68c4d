"""Many jobs, each in its own process.

`callback` notes the jobs of a sweep before it starts, `expected` lists them and refuses what is mistyped, `dry_run`
shows them, `folders` refuses jobs that would overwrite each other, `child` runs one job, `records` keeps its outcome,
and `summary` writes and shows all of them; what their values mean is read in `config` (`zips`, `globs`, `devices`), and
so is each job's config (`jobs`). Nothing here imports torch; only a job's own process does. Hydra makes the callback
for every run; it imports the others only for a sweep.
"""
