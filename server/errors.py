"""The error that is shown to a person: what went wrong and what to do about it."""

from __future__ import annotations


class VireoError(Exception):
    """A problem that the user or operator can fix; the message names the cause and the fix.

    The command line prints it as one line and exits with `exit_code`; services log it.
    """

    exit_code = 1


class UsageError(VireoError):
    """The options of a command don't go together, or one has no valid value."""

    exit_code = 2


class NoAnswerError(VireoError):
    """What was to be asked isn't there, or doesn't answer in time."""

    exit_code = 3
