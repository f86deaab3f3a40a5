"""The benchmarks: ``python -m bench`` measures and writes the figures into docs/benchmarks.md.

Each measure in `bench.suites` gives some rows of the table. What is compared is run in turns, and a
ratio is the median of the quotients within each turn, because the machine is never quiet.
"""
