"""The client's side of a session, with the real server and with scripted ones."""
