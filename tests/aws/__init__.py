"""The AWS side of the tests: a server that speaks the protocols, and walks against it."""
