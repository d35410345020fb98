"""Locales as they are compared."""

OVERALL = ""
"""Locale of what is counted of all events."""

MAX_LENGTH = 35
"""Maximum length of a tag, as the protos have it; of a longer one the begin counts."""


def normal_locale(tag: str) -> str:
    """Return a language tag in the form in which what is trending is counted and looked up.

    `de_CH`, as POSIX and Java have it, is the same locale as `de-CH` or `de-ch`.
    """
    return tag[:MAX_LENGTH].replace("_", "-").lower()
