"""Which of many millions of texts have been seen, by their hashes: 21 to 32 bytes each, however long they are."""

from array import array
from hashlib import blake2b

FEWEST_SLOTS = 1_024
# Open addressing: at three quarters full a lookup takes two or three steps; growing by half keeps the table dense.
FULLEST, GROWTH = 0.75, 1.5


def text_digest(text: str) -> int:
    """Return a 64-bit hash of a text, never 0. It is the same in every process and on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") or 1


class DigestTable:
    """A hash table from 64-bit keys to 64-bit values; with `seen` and `add` a set of texts.

    Keys must be hashes themselves: a key is its own place in the table.
    """

    def __init__(self) -> None:
        self._count = 0
        self._make_room(FEWEST_SLOTS)

    def _make_room(self, slots: int) -> None:
        self._slots = slots
        # Arrays hold 16 bytes a slot; a dict would hold an object for each key and value beside its own table.
        self._keys, self._values = array("Q", bytes(8 * slots)), array("Q", bytes(8 * slots))

    def __len__(self) -> int:
        return self._count

    def setdefault(self, key: int, value: int) -> int | None:
        """Enter a key that is not there and return None; else return the value that it has."""
        key = key or 1  # 0 marks a free slot
        keys, slot = self._keys, key % self._slots
        while keys[slot]:
            if keys[slot] == key:
                return self._values[slot]
            slot = (slot + 1) % self._slots
        keys[slot], self._values[slot] = key, value
        self._count += 1
        if self._count > FULLEST * self._slots:
            self._grow()
        return None

    def _grow(self) -> None:
        old = zip(self._keys, self._values, strict=True)
        self._count = 0
        self._make_room(int(self._slots * GROWTH))
        for key, value in old:
            if key:
                self.setdefault(key, value)

    def add(self, digest: bytes) -> bool:
        """Enter the first 16 bytes of a hash; return whether they were not there."""
        key, value = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
        # Two hashes may share their first half, once in millions of billions of pairs: the other takes the next key.
        while (found := self.setdefault(key, value)) is not None and found != value:
            key = (key + 1) % 2**64
        return found is None

    def seen(self, text: str) -> bool:
        """Return whether a text came before; if not, remember it."""
        return not self.add(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest())
