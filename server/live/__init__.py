"""What pods and gateways follow of the log: changes of the catalogue, and what is trending."""
