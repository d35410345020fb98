"""The consumer of events: keeps viewers' rows, and what is trending, current."""
