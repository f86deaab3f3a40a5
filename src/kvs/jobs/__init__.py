"""Job files: one job, a directory of them, and the run that carries them all out."""
