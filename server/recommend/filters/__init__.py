"""Filters: which videos a viewer's answer may have, by the attributes that a release declares."""
