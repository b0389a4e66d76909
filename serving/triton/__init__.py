"""The engine behind Triton's Python backend: one resident base, and people who forward to it."""
