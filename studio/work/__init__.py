"""Long work: durable workflows, the workers that do them, and whose turn it is."""
