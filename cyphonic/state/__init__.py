"""What Redis holds: the State Database (volatile) and the registry (durable)."""
