"""Many cases at once: manifests, isolation of failures, tables of results."""
