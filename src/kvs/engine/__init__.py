"""The engine: executes commands on the table.

`interface` defines what every engine does; `python` is the reference; `_compiled` is the engine in
C++, where it could be built; `selection` selects one of them. Only the store creates engines, and
no code depends on which one is selected.
"""
