"""The artifact store: execution, manifests, leases, gates, inventory and garbage collection."""
