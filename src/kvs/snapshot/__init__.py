"""Snapshots and backups: a forked child writes the table of one instant; restore reads a backup."""
