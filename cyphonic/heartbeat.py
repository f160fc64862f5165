"""A thread that announces this process to the fleet about once a second.

Redis being away is no reason to stop, nor is a machine that has no descriptor left: without this thread the process
would work on and be lost to the fleet.  The log says so once, and what to do about it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from cyphonic.errors import OperationalError
from cyphonic.logs import pairs
from cyphonic.state.fleet import HEARTBEAT, FleetMember, announce, withdraw
from cyphonic.state.store import Store, StoreConfig, StoreUnavailableError

_log = logging.getLogger(__name__)


class Heartbeat:
    """``start`` announces once in the caller's thread, so that what is wrong with Redis shows at once.

    ``member`` is called in the heartbeat's thread each time: addresses and load change.  So is ``errand``, with the
    connection, for what else has to be kept up with the fleet.
    """

    def __init__(
        self,
        config: StoreConfig,
        member: Callable[[], FleetMember],
        errand: Callable[[Store], None] = lambda _store: None,
    ) -> None:
        self._config = config
        self._member = member
        self._errand = errand
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.store_available = True
        self._back = ""

    def start(self) -> None:
        """Raise StoreUnavailableError when Redis cannot be reached."""
        with Store.connect(self._config) as store:
            self._beat(store)
        self._thread.start()

    def stop(self) -> None:
        """Withdraw from the fleet, as far as Redis can be reached."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2 * HEARTBEAT)

    def _run(self) -> None:
        with Store(self._config) as store:
            while not self._stop.wait(HEARTBEAT):
                self._note(self._try(lambda: self._beat(store)))
            self._try(lambda: withdraw(store, self._member().instance))

    def _beat(self, store: Store) -> None:
        self._errand(store)
        announce(store, self._member())

    def _try(self, action: Callable[[], None]) -> OperationalError | None:
        try:
            action()
        except StoreUnavailableError as error:
            return error
        except OSError as error:
            return OperationalError(f"this machine refuses: {error.strerror}", "is the limit (ulimit -n) too low?")
        return None

    def _note(self, failure: OperationalError | None) -> None:
        if failure is not None and self.store_available:
            what = "Redis is away" if isinstance(failure, StoreUnavailableError) else "no heartbeat"
            fields = pairs(reason=failure.message, hint=failure.hint)
            _log.warning(f"{what}, going on unannounced", extra=fields)
            self._back = "Redis is back" if isinstance(failure, StoreUnavailableError) else "announced again"
        elif failure is None and not self.store_available:
            _log.info(self._back)
        self.store_available = failure is None
