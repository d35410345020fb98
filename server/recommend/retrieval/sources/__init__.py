"""Candidate sources and scores, one signal per file; `vireo.server.signals` declares them.

`propose` returns the `limit` best rows, best first, without blocked ones; `score` scores any
videos, whichever source proposed them.
"""
