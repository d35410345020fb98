"""Whether each fault of `bench.chaos` fires its alert, and `vireo doctor` names its cause."""
