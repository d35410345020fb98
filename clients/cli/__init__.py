"""The `vireo` command: one file a command group."""
