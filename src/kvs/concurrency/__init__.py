"""Shared state, waits and forks, beside threads, signal handlers and finalizers."""
