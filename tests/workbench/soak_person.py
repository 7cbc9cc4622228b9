"""Somebody at the keyboard: what is typed, pasted, clicked and resized at random, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NARROW = ((1, 1), (2, 1), (3, 2), (5, 10), (20, 80), (79, 5))
MOVES = (b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D", b"\x1b[5~", b"\x1b[6~", b"\x1b[H", b"\x1b[F", b"\t", b"\x1b[Z")
ENDS = (b"\r", b"\r", b"\r\r", b"\x1b", b"\x1b\x1b", b"\x1b\r", b" ", b"\x7f", b"q", b"\x1bq", b"y", b"?", b"\x1bOP")
LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-=<>[]{}().,;:!@#$%^&*_|'\"`~"
CONTROLS = bytes(code for code in range(1, 27) if code not in b"\x09\x0d\x11\x1a")  # neither quits nor suspends
PASTES = ("once upon a time\n" * 3, "नमस्ते दुनिया", "👩‍👩‍👧 🇩🇪 ❤️", "\x1b[31mred\x00", "x" * 3000)


class Person:
    """Chooses what to do next, from a seed."""

    def __init__(self, seed: int, *, resizes: bool = True, clicks: bool = True, quits: bool = True) -> None:
        self._random = random.Random(seed)
        self.size = (80, 24)
        kinds: dict[Callable[[], bytes], int] = {
            self._move: 22,
            self._end: 22,
            self._letter: 20,
            self._place: 10,
            self._palette: 5,
            self._several: 6,
            self._control: 3,
            self._paste: 1,
        }
        if clicks:
            kinds[self._mouse] = 8
        self._kinds, self._weights = list(kinds), list(kinds.values())
        self._resizes, self._quits = resizes, quits

    def keys(self) -> bytes:
        """What is typed next, in one piece."""
        if self._quits and self._random.random() < 1 / 1500:
            return b"\x11"
        (kind,) = self._random.choices(self._kinds, self._weights)
        return kind()

    def sizes(self) -> Sequence[tuple[int, int]]:
        """Sizes to take at once: none for most of the time, one, or a storm of them."""
        chance = self._random.random()
        if not self._resizes or chance > 0.04:
            return ()
        count = self._random.randint(5, 30) if chance < 0.008 else 1
        sizes = [self._size() for _ in range(count)]
        self.size = sizes[-1]
        return sizes

    def _size(self) -> tuple[int, int]:
        chance = self._random.random()
        if chance < 0.3:
            return self._random.choice(NARROW)
        if chance < 0.6:
            return (80, 24)
        return (self._random.randint(1, 200), self._random.randint(1, 60))

    def _move(self) -> bytes:
        return self._random.choice(MOVES)

    def _end(self) -> bytes:
        return self._random.choice(ENDS)

    def _letter(self) -> bytes:
        return bytes([self._random.choice(LETTERS)])

    def _place(self) -> bytes:
        return self._random.choice((b"1", b"2", b"3", b"4", b"5", b"\x1b1", b"\x1b3"))

    def _palette(self) -> bytes:
        return b"\x10" + self._random.choice((b"", b"\x1b", b"go\r", b"th\r", b"se\x1b", b"de\r", b"\r\r", b"\x1b[B\r"))

    def _several(self) -> bytes:
        return b"".join(self._random.choice((self._move, self._end, self._letter))() for _ in range(4))

    def _control(self) -> bytes:
        return bytes([self._random.choice(CONTROLS)])

    def _paste(self) -> bytes:
        return b"\x1b[200~" + self._random.choice(PASTES).encode() + b"\x1b[201~"

    def _mouse(self) -> bytes:
        x, y = self._random.randint(1, self.size[0]), self._random.randint(1, self.size[1])
        wheel = self._random.choice((0, 0, 0, 64, 65))
        press = f"\x1b[<{wheel};{x};{y}M"
        return (press if wheel else press + f"\x1b[<0;{x};{y}m").encode()
