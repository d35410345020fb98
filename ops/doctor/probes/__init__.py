"""Probes, one part of a deployment each: they return facts and judge nothing."""
