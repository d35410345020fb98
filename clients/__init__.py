"""What talks to a running Vireo."""
