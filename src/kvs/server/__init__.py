"""The server: one loop for the registration pipe and all sessions, whatever their number."""
