"""The lease on an output folder: one job at a time writes there, and the place of one that is gone is taken over.

A lease is a file, `.lease-{number}.json`, and the highest number holds. Whoever takes over from a dead job creates the
next number, which one alone can, so that no late-comer ever deletes a lease that it has not seen. It is renewed while
the job runs. Its owner is gone if its process is, where that can be seen, or if it is not renewed for a minute.
"""

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from animatediff import storage
from animatediff.errors import UserError
from animatediff.storage import exclusive
from animatediff.uris import printable_uri
from pipelines.outputs.lease_holder import Holder
from pipelines.terminal import interrupts

logger = logging.getLogger(__name__)

EXPIRES_S = 60.0
"""What is not renewed for so long is nobody's."""
_RENEWED_EVERY_S = 10.0
_LOOK_S = 1.0
_NAME = re.compile(r"\.lease-(\d+)\.json")


@contextmanager
def leased(output_uri: str, job: str, *, is_dry: bool) -> Iterator[None]:
    """Hold the lease on a job's output folder during the block.

    Args:
        output_uri: the folder; it need not be there, and is not if nothing was written to it.
        job: its name.
        is_dry: whether nothing is written; then there is no lease.

    Raises:
        UserError: another job holds it, or has taken it over as this one gave no sign; or the storage cannot be
            written to.
    """
    if is_dry:
        yield
        return
    with interrupts.stoppable() as stop:
        holder = Holder.of_this_process(job)
        lease = Lease(storage.absolute(output_uri), holder, renewed_every_s=_RENEWED_EVERY_S, lost=stop)
        try:
            lease.acquire()
            interrupts.say_on_interrupt(f"what is done is kept in {printable_uri(output_uri)}")
            yield
        finally:
            lease.release()


class Lease:
    """One process's wish to write to a folder.

    Args:
        folder_uri: the folder.
        holder: who wants it.
        expires_s: seconds without a renewal after which another's lease counts no more.
        renewed_every_s: seconds from one renewal to the next.
        lost: called, in a thread, with the reason for which it is held no longer.
    """

    def __init__(
        self,
        folder_uri: str,
        holder: Holder,
        *,
        expires_s: float = EXPIRES_S,
        renewed_every_s: float = _RENEWED_EVERY_S,
        lost: Callable[[UserError], None] = lambda reason: logger.error("%s", reason),
    ) -> None:
        self._folder_uri, self._holder, self._lost = folder_uri, holder, lost
        self._expires_s, self._renewed_every_s = expires_s, renewed_every_s
        self._number: int | None = None
        self._made = absent_folders(folder_uri)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed_since: float | None = None
        self.loss: str | None = None
        """Why it is held no longer."""

    def acquire(self) -> None:
        """Take the lease, at once or when its owner is found to be gone.

        Raises:
            UserError: another job holds it, or the storage cannot be written to.
        """
        while not self._try():
            time.sleep(random.uniform(0, _LOOK_S / 10))  # two that gave way to each other
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")
        self._thread.start()

    def release(self) -> None:
        """Give it back; what fails costs a warning, since it expires."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(self._renewed_every_s)
        if self._number is not None and not self.loss:
            try:
                storage.delete(self._uri(self._number))
            except UserError as error:
                logger.warning("the lease on the folder stays until it expires: %s", error)
        self._number = None
        for folder in self._made:
            with suppress(OSError):  # something is in it
                folder.rmdir()

    def _try(self) -> bool:
        gone = self._contents()
        if gone and not self._is_nobodys(max(gone), gone[max(gone)]):
            return False
        number = max(gone, default=0) + 1
        try:
            if not exclusive.create(self._uri(number), self._content()):
                return False
        except FileNotFoundError:  # the folder was another's, that has removed it
            return False
        self._number = number
        # One that was held up since it looked may have made another number meanwhile, or an old one anew.
        if any(gone.get(other) != content for other, content in self._contents().items() if other != number):
            self._number = None
            storage.delete(self._uri(number))
            return False
        storage.delete_many([self._uri(other) for other in gone])
        return True

    def _is_nobodys(self, number: int, content: bytes) -> bool:
        """Whether a lease may be taken over, for which it may have to be watched; False if it has been released.

        Raises:
            UserError: its holder is at work.
        """
        holder = Holder.parse(content)
        whose = holder or "another job"
        is_alive = holder.is_alive() if holder else None
        if is_alive:
            raise UserError(self._refusal(whose))
        if is_alive is False:
            logger.info("output_uri is taken over from %s: its process is gone", whose)
            return True
        first = self._last_sign(number)
        storage_time_s = exclusive.clock(self._folder_uri)
        began = time.monotonic()
        logger.info("output_uri is leased to %s: waiting to see whether it is at work", whose)
        while True:
            # Taken before the look and after the storage's answers, so that a slow storage makes nobody seem late.
            waited_s = time.monotonic() - began
            sign = self._last_sign(number)
            if sign is None:
                return False
            if sign != first:
                raise UserError(self._refusal(whose))
            # By the storage's clock; where it tells no time, or a wrong one, by what is seen from here.
            if storage_time_s + waited_s - sign[1] > self._expires_s or waited_s > self._expires_s:
                logger.info("output_uri is taken over from %s: it gave no sign for %.0f s", whose, self._expires_s)
                return True
            time.sleep(_LOOK_S)

    def _last_sign(self, number: int) -> tuple[bytes, float] | None:
        """Return what a renewal changes of a lease; None if it is gone."""
        try:
            content = storage.read_bytes(self._uri(number))
        except FileNotFoundError:
            return None
        return content, storage.list_times(self._folder_uri).get(f".lease-{number}.json", float("inf"))

    def _refusal(self, whose: object) -> str:
        folder = printable_uri(self._folder_uri)
        return f"output_uri: {folder} is in use by {whose}: wait for its end, or choose another folder"

    def _keep(self) -> None:
        """Renew the lease until it is released or lost."""
        while not self._ended.wait(self._renewed_every_s):
            try:
                self._renew()
            except (UserError, OSError) as error:
                if self._failed_since is None:
                    self._failed_since = time.monotonic()
                    logger.warning("the lease on the folder could not be renewed, and is tried again: %s", error)
                continue
            if self.loss:
                self._lost(UserError(self.loss))
                return
            if self._failed_since is not None:
                logger.info("the lease on the folder is renewed again")
                self._failed_since = None

    def _renew(self) -> None:
        number = self._number
        if number is None:
            return
        later = max(self._numbers(), default=0)
        if later > number:
            self.loss = (
                f"output_uri: {printable_uri(self._folder_uri)} was taken over by another job, as this one had given "
                f"no sign for {self._expires_s:.0f} s: run it again when the other has ended"
            )
            return
        self._holder = self._holder.model_copy(update={"renewals": self._holder.renewals + 1})
        try:
            exclusive.renew(self._uri(number), self._content())
        except FileNotFoundError:  # somebody has deleted it by hand
            exclusive.create(self._uri(number), self._content())

    def _numbers(self) -> list[int]:
        """Return the numbers of all leases of the folder."""
        names = map(_NAME.fullmatch, storage.list_names(self._folder_uri))
        return [int(match[1]) for match in names if match]

    def _contents(self) -> dict[int, bytes]:
        """All leases by number."""
        found: dict[int, bytes] = {}
        for number in self._numbers():
            with suppress(FileNotFoundError):  # it has been released since
                found[number] = storage.read_bytes(self._uri(number))
        return found

    def _uri(self, number: int) -> str:
        return storage.join(self._folder_uri, f".lease-{number}.json")

    def _content(self) -> bytes:
        return self._holder.model_dump_json(indent=2).encode() + b"\n"


def absent_folders(uri: str) -> list[Path]:
    """Return the folders that are made along with a local one, innermost first."""
    if not storage.is_local(uri):
        return []
    path = Path(uri)
    return [folder for folder in (path, *path.parents) if not folder.exists()]
