"""What every service's pipeline is made of: candidates in columns, stage kinds and the runner."""
