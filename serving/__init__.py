"""Personal weights and a prompt in, pictures out; many people on one base. Knows no page."""
