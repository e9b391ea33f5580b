"""Running the service: metrics, logs without identity, health, backup and restore."""
