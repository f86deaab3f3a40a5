"""Shared state, waits and forks that threads, signal handlers and finalizers may use."""
