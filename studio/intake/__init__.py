"""From uploaded bytes to a set of photos that a person can be learned from."""
