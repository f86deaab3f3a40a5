"""The session protocol over named pipes: frames and states with no I/O, and one module with it.

`frames` is the layout of every message; `registration`, `requests` and `replies` take bytes in,
however they are cut, and give messages out; `session` is the life of a session at the server.
`fifos` alone opens, reads and writes pipes.
"""
