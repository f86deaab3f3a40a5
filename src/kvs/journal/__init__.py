"""The journal: every change on disk before any result that depends on it is released.

- `format`: the layout of its files, byte by byte; pure.
- `reader`: one file, read and verified up to its first invalid byte.
- `recovery`: all files of a data directory, read in order into a store.
- `queue`, `writer`, `failure`: changes appended by any thread, the one thread that writes them in
  groups, and the end of the journal when that fails.
- `directory`, `storage`, `reserve`: the data directory, the system calls that change it, and the
  disk space that it holds back.
- `job_records`: how far each job has run.

Lines of the command language are opaque bytes here.
"""
