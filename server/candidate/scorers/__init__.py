"""The scores that candidates get, a file each."""
