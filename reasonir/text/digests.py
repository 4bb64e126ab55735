"""A table of hashes: which of many millions have been seen, in 21 to 32 bytes each."""

from array import array

FEWEST_SLOTS = 1_024
FULLEST, GROWTH = 0.75, 1.5


class DigestTable:
    """Maps 64-bit keys to 64-bit values. Keys must be hashes: they are their own place in the table."""

    def __init__(self) -> None:
        self._count = 0
        self._make_room(FEWEST_SLOTS)

    def _make_room(self, slots: int) -> None:
        self._slots = slots
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
        while (found := self.setdefault(key, value)) is not None and found != value:
            key = (key + 1) % 2**64  # half of another hash: once in millions of billions of pairs
        return found is None
