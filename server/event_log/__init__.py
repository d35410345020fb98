"""The log of events and of changes to the catalogue: NATS JetStream."""
