"""The session protocol over named pipes. No I/O.

`frames` defines the layout of every message. `registration`, `requests` and `replies` parse the
bytes of one pipe each, in pieces of any size, into messages.
"""
