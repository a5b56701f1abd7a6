"""Orders from another terminal that the driver has not carried out yet."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Final

from search.driver.progress import ProgressDisplay
from search.study.ledger import Ledger
from search.study.orders import Order

_EVERY: Final = 1.0  # seconds


class PendingOrders:
    """The orders in the study that are not carried out; read once a second at most, however often `poll` is called."""

    def __init__(self, ledger: Ledger, display: ProgressDisplay, stale: Collection[Order] = ()) -> None:
        """`stale` are the orders that stood there when this driver took the sweep; those to a driver are withdrawn."""
        self._ledger, self._display = ledger, display
        self._stale = {order.given for order in stale if order.to_driver}
        self._orders: list[Order] = []
        self._said: set[int] = set()
        self._asked = -_EVERY
        self._withdraw(self._stale)

    def poll(self) -> None:
        """Read the orders from the study, unless that was less than a second ago, and print the new ones."""
        if time.monotonic() - self._asked < _EVERY:
            return
        self._orders = [order for order in self._ledger.orders() if order.given not in self._stale]
        for order in self._orders:
            if order.given not in self._said:
                self._said.add(order.given)
                self._display.note(f"order: {order.describe()}")
        self._asked = time.monotonic()

    @property
    def stopping(self) -> bool:
        """True if the driver is to end now, as with Ctrl-C."""
        return any(order.kind == "stop" for order in self._orders)

    @property
    def pausing(self) -> bool:
        """True if no trial may begin any more."""
        return any(order.to_driver for order in self._orders)

    @property
    def ending(self) -> set[int]:
        """Trials that are to end as stopped early."""
        return {order.trial for order in self._orders if order.trial is not None}

    def next_setting(self) -> Order | None:
        """The setting that somebody gave by hand and that is to be tried next; None when there is none."""
        done = {trial.order for trial in self._ledger.entries()}
        return next((order for order in self._orders if order.kind == "enqueue" and order.key not in done), None)

    def close(self) -> None:
        """Withdraw the orders to this driver: the next one goes on."""
        self._withdraw({order.given for order in self._orders if order.to_driver})

    def _withdraw(self, given: Collection[int]) -> None:
        for order in self._ledger.orders() if given else ():
            if order.given in given:
                self._ledger.withdraw(order)
