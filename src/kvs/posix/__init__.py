"""Wrappers of system calls, one module for each family of them. No policy."""
