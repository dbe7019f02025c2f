"""Ids, homes and digests: a memory's name, the place where it lives, and the key of its vector."""

import os
import struct
import time
from collections.abc import Callable
from hashlib import blake2b

Home = tuple[str, str] | None
"""A home: the field and the name of the memory's user, else its run, else its agent; None without an owner.

Ids are unique within a home, and vectors are shared within a home only.
"""


DIGEST_BYTES = 16
"""128 bits: the chance of any collision among a billion texts is about 10**-21."""


def digests_by(identity: str) -> Callable[[str], bytes]:
    """Returns a function from a text to the digest of its vector under the model of this identity. No two models share
    one."""
    of_model = blake2b(identity.encode() + b"\0", digest_size=DIGEST_BYTES)

    def digest(text: str) -> bytes:
        of_text = of_model.copy()
        of_text.update(text.encode())
        return of_text.digest()

    return digest


def at_home(digest: bytes, home: Home) -> bytes:
    """Returns the digest under which a home keeps the vector of a text with this digest. No two homes share one."""
    return blake2b(digest + _home_bytes(home), digest_size=DIGEST_BYTES).digest()


def _home_bytes(home: Home) -> bytes:
    return b"" if home is None else f"{home[0]}\0{home[1]}".encode()  # Names hold no NUL.


BUCKET_BITS = 12
"""Bits of the home in a generated id: its last three hexadecimal digits."""


def bucket_of(home: Home) -> int:
    """Returns a number below 4,096 that is the same for a home in every store and version.

    It is the first 12 bits of BLAKE2b (of 2 bytes) over the field, NUL and the name, without a key. An attacker that
    knows an owner's name can compute it.
    """
    digest = blake2b(_home_bytes(home), digest_size=2).digest()
    return int.from_bytes(digest, "big") >> 16 - BUCKET_BITS


def bucket_in(id: str) -> int:
    """Returns the bucket of the home that a generated id was made for."""
    return int(id[-3:], 16)


def new_id(home: Home) -> str:
    """Returns a UUID version 7 (RFC 9562, section 5.7). Ids sort by time of creation.

    Its parts are the milliseconds, 12 bits of the millisecond's fraction (section 6.2, method 3), 50 random bits of the
    system, and the home's bucket.
    """
    nanoseconds = time.time_ns()
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = (rest << 12) // 1_000_000
    tail = 1 << 63 | _random_bits() >> 14 << BUCKET_BITS | bucket_of(home)
    text = f"{(milliseconds << 16 | 7 << 12 | fraction) & (2**64 - 1):016x}{tail:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


RANDOM_TOGETHER = 512
"""Random numbers requested from the system at once. Each request releases the GIL, which costs 25 microseconds an `add`
when 50 threads want it."""

_random: list[int] = []
_random_pid = 0


def _random_bits() -> int:
    """Returns 64 bits of the system's generator, each number once: a forked child requests its own."""
    global _random_pid
    if _random_pid != (pid := os.getpid()):  # Some servers skip Python's fork hooks.
        _random.clear()
        _random_pid = pid
    while True:
        try:
            return _random.pop()
        except IndexError:
            _random.extend(struct.unpack(f"{RANDOM_TOGETHER}Q", os.urandom(8 * RANDOM_TOGETHER)))
