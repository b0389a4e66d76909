"""Styles and negative prompts as data, and the only place where prompt text is composed."""
