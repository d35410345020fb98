"""Formats that outlive a process, and whether two builds read each other's."""
