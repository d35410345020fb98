"""Finds out what is wrong with a deployment: probes ask every part, `diagnose` names the causes."""
