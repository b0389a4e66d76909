"""What stays, what goes by itself, what is erased, and a copy of it all."""
