"""The web app: `python app.py`, `uvicorn app:app --factory`, or the app_file of a Space."""

from __future__ import annotations

import sys

from fastapi import FastAPI

from studio.errors import BackendError
from studio.settings import read_settings
from studio.web import app as web


def app() -> FastAPI:
    """The app for an ASGI server: settings from the environment, parts from the settings."""
    return web.create(read_settings())


def main() -> int:
    """Serve the page with the workers beside it; the exit code."""
    try:
        web.serve(read_settings())
    except BackendError as fault:
        print(fault, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
