"""Where candidates come from, and the scores that they get: a file for each signal.

`propose` gives rows of videos, best first; `score` gives any videos their score, whichever source
proposed them. `server.signals` declares both.
"""
