"""The product: who owns what, what happens next, what the user sees."""
