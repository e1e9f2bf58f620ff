"""Structs of Thrift's compact protocol, which Parquet tells its footers and page headers in."""

from typing import Any

_MAX_DEPTH = 12
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)


class Compact:
    """Reads one struct after the other.

    Args:
        data: where they stand.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Integers, bytes, lists and structs by the number of their field; other values are passed over.

        Raises:
            IndexError: the data ends before.
            ValueError: it is no such struct.
        """
        if depth > _MAX_DEPTH:
            raise ValueError("a header is nested without end")
        fields: dict[int, Any] = {}
        number = 0
        while byte := self._byte():
            number = number + (byte >> 4) if byte >> 4 else self._integer()
            kind = byte & 15
            if kind not in (_TRUE, _FALSE):  # which the kind itself says
                fields[number] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            number = head >> 4 if head >> 4 < 15 else self._varint()
            of = head & 15
            if number > len(self._data) - self.at:  # each takes a byte at least
                raise IndexError(number)
            return [self._value(_BYTE if of in (_TRUE, _FALSE) else of, depth + 1) for _ in range(number)]
        if kind in (_BYTE, _DOUBLE):
            return self._bytes(1 if kind == _BYTE else 8)
        raise ValueError(f"a header has a field of the unknown type {kind}")

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _bytes(self, number: int) -> bytes:
        self.at += number
        if self.at > len(self._data):
            raise IndexError(self.at)
        return self._data[self.at - number : self.at]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a header has a number that is too large")
        return value | byte << shift

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
