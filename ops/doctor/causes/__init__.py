"""Every cause that `diagnose` knows, by subject: pure functions of the facts."""
