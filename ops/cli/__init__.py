"""The `vireo` command, one file per command group."""
