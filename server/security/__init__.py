"""What makes certificates and tokens; what is served with them needs nothing of it."""
