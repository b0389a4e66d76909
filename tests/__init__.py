"""Tests, mirroring the tree of rooms."""
