"""What every gRPC server of ours shares: start, validation, status codes, shedding and draining."""
