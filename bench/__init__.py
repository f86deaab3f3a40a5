"""The benchmarks: ``python -m bench`` measures and writes docs/benchmarks.json and .md.

Each suite in `bench.suites` measures one subject; a section is the suites that answer one question.
The systems that are compared run in interleaved rounds, and a ratio is the median of the quotients
within each round, because the machine is never idle.
"""
