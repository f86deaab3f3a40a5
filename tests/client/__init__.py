"""A client's side of a session, beside the real server and beside strange ones."""
