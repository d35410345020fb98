"""The control plane: tells every Envoy its listeners, routes, clusters and endpoints over xDS."""
