"""A service: it executes the jobs of a directory as their files arrive."""
