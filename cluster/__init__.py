"""What people and programs touch: command line, demo, reports. The engine below knows nothing of it."""
