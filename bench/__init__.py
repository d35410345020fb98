"""Measurements that take long, each a module to run; see README.md."""
