"""Load tests and benchmarks. Nothing of ours is imported: a stranger could have written this from the docs.

The server is driven over HTTP by public generators; the bare loops and peers run the same published files through the
public runtimes, and their answers are compared with the server's before anything is timed.
"""
