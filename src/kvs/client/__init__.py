"""A client of a server: a session over named pipes, for programs and for the command line.

`place` makes a client's pipes, `link` moves bytes over them without ever waiting, `opening`
connects, `exchange` shares a link between threads, `session` is what a program uses. `lines` is
what a person types.
"""
