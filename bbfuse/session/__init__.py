"""Ask and tell: runs whose queries are handed out and whose responses are told, for devices without an API."""

from bbfuse.session.bench import Query
from bbfuse.session.session import Session

__all__ = ["Query", "Session"]
