"""The control plane: serves listeners, routes, clusters and endpoints to every Envoy over xDS."""
