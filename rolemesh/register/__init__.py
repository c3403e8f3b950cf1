"""The client's side of a gateway: registering a node, keeping its lease, asking how things are."""
