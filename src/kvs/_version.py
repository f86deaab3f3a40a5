"""The version, alone in a module that the build can read without importing anything else."""

VERSION = "0.1.0"
