"""Which pages are there in this process, and which of them have something new to tell?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from serving.evidence.counts import Counts
from serving.evidence.page import Arm, Page

EPOCHS_MAX = 64
"""Epochs of a model of which there are pages; older ones are told a last time."""
PAGES_MAX = 4096
LEAVING_MAX = 256
"""Pages that wait to be told a last time."""


class Book:
    """The pages of all models. Counts are since this process began, and never go down.

    Attributes
    ----------
    dropped : int
        Pages that were given up before they were told a last time.
    """

    def __init__(self) -> None:
        self._pages: dict[Arm, Page] = {}
        self._leaving: dict[Arm, Page] = {}
        self._gone: dict[Arm, Counts] = {}
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Book: {len(self._pages)} pages, {len(self._leaving)} leaving, {self.dropped} dropped>"

    def page(self, model: str, epoch: int, version: str, arm: str) -> Page:
        """Return the page of an arm, made if it is new."""
        of = Arm(model, epoch, version, arm)
        page = self._pages.get(of) or self._leaving.pop(of, None)
        if page is None:
            page = Page(of)
        if of not in self._pages:
            self._pages[of] = page
            self._bound(model)
        return page

    def _bound(self, model: str) -> None:
        epochs = sorted({of.epoch for of in self._pages if of.model == model})
        over = set(epochs[: max(len(epochs) - EPOCHS_MAX, 0)])
        leaving = [of for of in self._pages if of.model == model and of.epoch in over]
        leaving += list(self._pages)[: max(len(self._pages) - len(leaving) - PAGES_MAX, 0)]
        for of in leaving:
            page = self._pages.pop(of, None)
            if page is not None:
                self._leaving[of] = page
        while len(self._leaving) > LEAVING_MAX:
            self._forget(next(iter(self._leaving)))
            self.dropped += 1

    def _forget(self, of: Arm) -> None:
        """Keep of a page what metrics say: its epochs together."""
        counts, always = self._leaving.pop(of).counts(), of._replace(epoch=0)
        self._gone[always] = self._gone.get(always, Counts()) + replace(counts, held={}, callers={})
        while len(self._gone) > PAGES_MAX:
            del self._gone[next(iter(self._gone))]

    def everything(self) -> dict[Arm, Counts]:
        """Return what is on all pages, and on those that are gone, as of an epoch 0. For any thread."""
        return {**self._gone, **self.readings()}

    def readings(self) -> dict[Arm, Counts]:
        """Return what is on all pages."""
        return {of: page.counts() for of, page in (self._leaving | self._pages).items()}

    def news(self, told: dict[Arm, int]) -> list[list[Any]]:
        """Return ``[model, epoch, version, arm, counts]`` of each page that changed, as plain values.

        `told` has the `Page.changes` that were told last; what is returned is noted there. Pages that
        leave are in it a last time.
        """
        changed = []
        for of, page in (self._leaving | self._pages).items():
            if page.changes != told.get(of, 0):
                told[of] = page.changes
                changed.append([*of, page.counts().to_json()])
        for of in list(self._leaving):
            self._forget(of)
        for of in told.keys() - self._pages.keys():
            del told[of]
        return changed
