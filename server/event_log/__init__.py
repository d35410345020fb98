"""The log of events and of changes to the catalogue: NATS JetStream, or Kafka if a site has it."""
