"""Candidate sources and scores, one signal per file; `server.signals` declares them.

`propose` returns rows of videos, best first; `score` scores any videos, whichever source proposed
them.
"""
