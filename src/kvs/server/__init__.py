"""The server: one event loop for the registration pipe and all sessions."""
