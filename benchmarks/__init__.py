"""Measurements of the whole product; each prints a table and, last, one line of JSON."""
