"""Job files: a job, a jobs directory, and a run that executes every job in it."""
