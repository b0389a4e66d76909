"""The recipe of the starter: a small Stable Diffusion pipeline trained from scratch.

Knows no user and no photograph: every training picture is rendered here.
"""
