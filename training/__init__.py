"""Photos on disk in, personal weights out. Knows no user, no database, no page."""
