"""Where bytes lie: a local folder or S3, behind one small Protocol."""

from studio.storage.storage import Storage

__all__ = ["Storage"]
