"""What a job of each kind does: from stored objects to artifacts and a verdict."""
