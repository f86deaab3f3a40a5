"""The journal: every change on disk before anything that depends on it is shown.

`form` is the layout of its files, byte by byte; `scan` reads one and says where what is proved
ends; `folder` is the data directory and what is found there; `disk` has the steps that change it;
`log` appends groups and tells when they are durable; `progress` is how far jobs came. Lines of the
command language are only bytes here.
"""
