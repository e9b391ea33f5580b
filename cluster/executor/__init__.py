"""Where work units run: in this process, or on Ray. Nothing here knows what a dose is."""
