"""Snapshots: a forked child writes one instant of the table to a file; restore reads it back."""
