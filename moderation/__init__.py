"""Text or picture in, verdict out. Fails closed. Knows no user and no page."""
