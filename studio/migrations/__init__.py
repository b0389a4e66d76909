"""How the tables came to be: one file a step in `versions/`, run forward at every start."""
