"""`python -m studio.cli.app`: the same as `avatar-studio`."""

from studio.cli.app import main

main()
