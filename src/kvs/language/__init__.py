"""The command language: what a valid line is, why another is not, how results are written.

Pure functions over bytes: no files, no locks, no table. `grammar` is the one place that says
what is valid; `faults` is the second look at a line that is not; `results` is the form of what
comes out, and of what a backup holds.
"""
