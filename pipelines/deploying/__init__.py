"""What stands around the pipeline on a cluster or a machine: manifests and configurations, rendered from a profile."""
