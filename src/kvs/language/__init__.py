"""The command language: which lines are valid, why a line is invalid, and the form of output.

Pure functions over bytes: no files, no locks, no table. `grammar` alone defines what is valid;
`diagnostics` explains invalid lines, each by the `scanner`; `builder` makes commands of words;
`output_format` is the form of output and of backups.
"""
