"""What `vireo bench live` and `requests` measure on stacks whose features events change."""
