"""The engine: what carries out commands on the table, behind one boundary.

`boundary` says what every engine does; `python` is the reference, `_compiled` does the same in C++,
where it could be built; `choice` takes one of them. The store alone knows that there is an engine,
and nobody knows which.
"""
