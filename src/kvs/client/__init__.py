"""A client of a server: a session over named pipes, for programs and for the command line.

`pipes` creates a client's pipes, `transport` moves bytes through them without blocking
(`message_stream` parses the bytes), and `handshake` connects. `conversation` is the protocol
without I/O. `multiplexer` shares a transport between threads, and `session` is the API for
programs. `commands` parses the lines that a user types.
"""
