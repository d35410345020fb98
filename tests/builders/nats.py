"""Real NATS servers with JetStream on loopback, as benchmarks use them, too."""

from bench.nats import TOKEN, RunningNats, ServerFiles, running_cluster, running_nats, settings_of

__all__ = ["TOKEN", "RunningNats", "ServerFiles", "running_cluster", "running_nats", "settings_of"]
