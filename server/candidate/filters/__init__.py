"""Which candidates must not be returned, a file each."""
