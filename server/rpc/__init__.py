"""What every gRPC server of ours shares: start and stop, validation, status codes, metrics."""
