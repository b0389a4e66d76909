"""The studio in a terminal: the verbs of the page, for people and scripts."""
