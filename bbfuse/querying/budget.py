"""The query budget: images and requests that were sent, and the limit that they never pass."""

from __future__ import annotations

import threading

__all__ = ["Budget", "BudgetSpentError"]


class BudgetSpentError(RuntimeError):
    """The next request would pass the limit; it was not sent."""


class Budget:
    """Counts images: sent, lost and reserved images together never pass ``limit``. Several threads may use it.

    A request first reserves its images, so that concurrent requests cannot pass the limit together. Every attempt to send it is
    charged, to the reservation first.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.images = 0
        """Images sent by this process, whether a response came or not."""
        self.requests = 0
        self.lost = 0
        """Images in flight when a process was killed: sent and charged, without a response."""
        self.lock = threading.RLock()
        self._reserved = 0

    def reserve(self, images: int) -> None:
        """Reserve ``images`` below the limit.

        Raises:
            BudgetSpentError: the limit would be passed.
        """
        with self.lock:
            self._check(images)
            self._reserved += images

    def release(self, images: int) -> None:
        """Give back reserved ``images``."""
        with self.lock:
            self._reserved -= images

    def charge(self, images: int, reserved: int) -> int:
        """Count an attempt of ``images``, of which ``reserved`` may be taken from a reservation; returns how many were taken.

        Raises:
            BudgetSpentError: the rest would pass the limit; nothing may be sent.
        """
        with self.lock:
            taken = min(images, reserved)
            self._check(images - taken)
            self._reserved -= taken
            self.images += images
            self.requests += 1
            return taken

    def _check(self, more: int) -> None:
        used = self.images + self.lost + self._reserved
        if more and used + more > self.limit:
            raise BudgetSpentError(f"{more} more images would pass the limit of {self.limit}, {used} are sent")
