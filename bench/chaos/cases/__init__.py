"""The cases, a file each: every one takes the chain, hurts it under load, and says what held."""
