"""The error that a person sees: what went wrong and what to do about it."""

from __future__ import annotations


class VireoError(Exception):
    """Something the user or operator can mend; the message names the cause and the fix.

    The command line prints it as one line and exits with 1; services log it.
    """
