"""Segments: sealed blocks of an owner's memories, each a file that is mapped and never changed. The only importer of
usearch.

A file has a head (JSON: what stands where), the columns of its n places, their postings, and their distinct vectors: by
themselves at first, since these are written within a second, and later in a graph, which brings them along. It may only
be used when its checksum is right: the graph is read by code that believes it. What has changed since it was sealed is
known to its readers, not to the file.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agentmem.analyzer import ASKS
from agentmem.platform.files import make_file
from agentmem.platform.signals import fails_apart
from agentmem.search.bm25 import NOTHING, Places
from agentmem.search.columns import Columns
from agentmem.search.kernels import Cosines, Vectors, cosines
from agentmem.search.runs import run_numbers
from agentmem.search.segments.postings import COLUMNS as POSTINGS
from agentmem.search.segments.postings import Postings, sorted_postings
from agentmem.storage.types import NEVER, Keys, States

MAGIC = b"agmseg2\n"

ALIGNED = 64

CONNECTIVITY = 24
EXPANSION_ADD = 128
EXPANSION = 48
"""Of the graph: more neighbours, and more candidates while it is built and searched, find more and take longer. Of the
ten nearest of 65,536, it finds .98, and .90 with 16, 48 and 64 in the place of these, which is built three times as
fast (perf/segments.py)."""

ADDED_TOGETHER = 32
"""Vectors between two questions whether to stop: 7 milliseconds, or four times as many on an older processor."""

AUDIT_EXPANSION = 16

NO_VECTOR = np.uint32(0xFFFFFFFF)
NO_VECTORS = np.empty(0, np.uint32)

GRAPH_HEAD = 8
"""Bytes that a graph has before its vectors: how many there are, and the bytes of each."""


class Unsound(Exception):
    """A file cannot be used; what it had is scanned."""


class Stopped(Exception):
    """The building of a segment was cancelled."""


class Segment:
    """A sealed segment: n places by key, m distinct vectors. May be read from any thread.

    Attributes:
        keys, created_at, expires_at: int64 (n,), as those of an index; `keys` ascending.
        runs: int64 (n,), as those of an index.
        order: uint32 (n,), the places by run and key; `rank`, where each place stands in it.
        vector: uint32 (n,), the vector of each place, or NO_VECTOR.
        starts, members: the places of each vector v are members[starts[v] : starts[v + 1]].
        lost: vectors that the graph does not find.
        changed: int64, ascending: further keys that older segments may have and that are gone or elsewhere by now.
        asks: which of the places ask something.
        columns: what ranking needs of each place (`Columns`).
        vectors: float16 (m, dimension).
        postings: of the terms.
        first_expiry: the least of `expires_at`.
    """

    def __init__(self, path: Path, checksum: bytes) -> None:
        """Maps a file; see `open_segment`."""
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(self._map)
        if hashlib.blake2b(view, digest_size=16).digest() != checksum or bytes(view[:8]) != MAGIC:
            raise ValueError(f"{path} has another checksum or form")
        head_bytes = int.from_bytes(view[8:16], "little")
        head = json.loads(bytes(view[16 : 16 + head_bytes]))
        columns: dict[str, npt.NDArray[Any]] = {
            name: np.frombuffer(view, kind, count, start) for name, (kind, count, start) in head["columns"].items()
        }
        self.keys, self.created_at, self.expires_at = (columns[name] for name in ("keys", "created_at", "expires_at"))
        self.runs, self.order, self.rank = columns["runs"], columns["order"], columns["rank"]
        self.vector, self.starts, self.members = columns["vector"], columns["starts"], columns["members"]
        self.lost, self.changed = columns["lost"], columns["changed"]
        self.postings = Postings({name: columns[name] for name in POSTINGS})
        self.embedded = self.vector != NO_VECTOR
        self.asks = np.zeros(len(self.keys), np.bool_)
        [[first, last]] = self.postings.spans(np.array([ASKS], np.uint32))
        self.asks[self.postings.places[first:last]] = True
        self.columns = Columns(
            self.keys, self.created_at, self.runs, self.embedded, self.asks, self.postings.lengths
        )  # fmt: skip
        count, dimension, start = head["vectors"]
        self.vectors: Vectors = np.frombuffer(view, "<f2", count * dimension, start).reshape(-1, dimension)
        self._graph = None
        if head["graph"]:
            start, size = head["graph"]
            self._graph = _graph(dimension)
            self._graph.view(view[start : start + size])
        self.bytes = len(view)
        self.first_expiry = int(self.expires_at.min(initial=NEVER))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def has_graph(self) -> bool:
        return self._graph is not None

    def nearest(self, query: Vectors, count: int) -> tuple[Places, Cosines]:
        """The places of about the `count` vectors nearest to a query's (dimension,), and of those that the graph does
        not find, in no order, each with its cosine; it has one. A place may come twice."""
        if self._graph is None or not len(self.vectors):
            return NOTHING, np.empty(0)
        found = self._graph.search(query, min(count, len(self.vectors)), threads=1)
        vectors, near = found.keys.astype(np.intp), 1 - found.distances.astype(np.float64)
        if len(self.lost):
            vectors = np.concatenate((vectors, self.lost))
            near = np.concatenate((near, cosines(query, self.vectors[self.lost])))
        return self._of_places(vectors, near)

    def scan(self, query: Vectors) -> Callable[[int], tuple[Places, Cosines]]:
        """Compares a query's vector with all; what gives the places of the `count` nearest vectors, and of all that are
        as near as the last of them, in no order, each with its cosine."""
        near = cosines(query, self.vectors)

        def nearest(count: int) -> tuple[Places, Cosines]:
            bar = np.partition(near, len(near) - count)[len(near) - count] if count < len(near) else -np.inf
            vectors = np.flatnonzero(near >= bar)
            return self._of_places(vectors, near[vectors])

        return nearest

    def _of_places(self, vectors: npt.NDArray[Any], near: Cosines) -> tuple[Places, Cosines]:
        return self.places_of(vectors), np.repeat(near, self.starts[vectors + 1] - self.starts[vectors])

    def places_of(self, vectors: npt.NDArray[Any]) -> Places:
        """The places that have one of the vectors."""
        starts, ends = self.starts[vectors], self.starts[vectors + 1]
        counts = ends - starts
        offsets = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        places: Places = self.members[np.repeat(starts, counts) + offsets].astype(np.intp)
        return places

    def cosines_at(self, query: Vectors, places: Places) -> Cosines:
        """Of the query and the places' vectors; 0 where there is none."""
        numbers = self.vector[places]
        has = numbers != NO_VECTOR
        if has.all():
            return cosines(query, self.vectors[numbers])
        found = np.zeros(len(places))
        found[has] = cosines(query, self.vectors[numbers[has]])
        return found


def open_segment(path: Path, checksum: bytes) -> Segment:
    """Maps a file; reads all of it once, for the checksum.

    Raises:
        Unsound: it is not there, or not what was written.
    """
    try:
        return Segment(path, checksum)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if not fails_apart(lambda: Segment(path, checksum)):
            raise
        raise Unsound(str(error)) from error


class Content(NamedTuple):
    """What goes into a segment: its columns, and its distinct vectors (m, dimension)."""

    columns: dict[str, npt.NDArray[Any]]
    vectors: Vectors


def write_segment(path: Path, content: Content, *, like: str, with_graph: bool, stop: Callable[[], bool]) -> bytes:
    """Writes a segment to a new file, with the mode and owner of the file `like`, and has it on the disk; returns its
    checksum. It takes part of a second, and with a graph some 0.2 milliseconds a distinct vector more, on this thread
    alone; the GIL is free for nearly all of it.

    Raises:
        Stopped: `stop` said so; no file is left then, nor after any error.
    """
    columns, vectors = content
    blob, lost = _built(vectors, stop) if with_graph else (None, NO_VECTORS)
    if stop():  # Something in it may have been purged meanwhile.
        raise Stopped
    try:
        with os.fdopen(make_file(str(path), like=like), "wb") as file:
            checksum = _write(file, columns | {"lost": lost}, vectors, blob)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return checksum


def content_of(live: list[States], changed: Keys) -> Content:
    """Of memories, and the keys of all that changed in the same range, also of what is gone. Empties the list on the
    way, which holds as much as what is made of it."""
    if not live:
        return Content({"keys": changed[:0]}, np.empty((0, 0), np.float16))
    keys = np.concatenate([states.keys for states in live])
    by_key = np.argsort(keys)
    keys = keys[by_key]
    runs = np.concatenate([run_numbers(states.runs) for states in live])[by_key]
    embedded = np.concatenate([states.embedded for states in live])
    created_at = np.concatenate([states.created_at for states in live])[by_key]
    expires_at = np.concatenate([states.expires_at for states in live])[by_key]
    terms = np.concatenate([states.terms for states in live])
    counts = np.concatenate([states.term_counts for states in live])
    flat = np.concatenate([states.vectors for states in live])
    live.clear()
    vectors, numbers = _distinct(flat, int(embedded.sum()))
    vector = np.full(len(keys), NO_VECTOR, np.uint32)
    vector[embedded] = numbers
    vector = vector[by_key]
    places = np.flatnonzero(vector != NO_VECTOR)
    order = np.lexsort((keys, runs))
    columns: dict[str, npt.NDArray[Any]] = {
        "keys": keys, "runs": runs, "created_at": created_at, "expires_at": expires_at,
        "order": order.astype(np.uint32), "rank": rank_of(order).astype(np.uint32), "vector": vector,
        "starts": np.append(0, np.cumsum(np.bincount(vector[places], minlength=len(vectors)))).astype(np.int64),
        "members": places[np.argsort(vector[places], kind="stable")].astype(np.uint32),
        "changed": np.setdiff1d(changed, keys),
        **sorted_postings(terms, np.repeat(rank_of(by_key), counts), counts[by_key]),
    }  # fmt: skip
    return Content(columns, vectors)


def rank_of(order: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
    """Where each element stands in an order."""
    rank = np.empty(len(order), np.uint64)
    rank[order] = np.arange(len(order), dtype=np.uint64)
    return rank


def _distinct(flat: Vectors, count: int) -> tuple[Vectors, npt.NDArray[np.intp]]:
    """Returns the distinct ones of `count` vectors as (m, dimension) in the order of their first places, and the
    number of each vector among them. Two of the same may stay where a third has their hash, which does no harm."""
    vectors = flat.reshape(count, -1) if count else np.empty((0, 1), np.float16)
    hashes = np.concatenate([np.empty(0, np.uint64), *map(_hashes, np.split(vectors, range(HASHED, count, HASHED)))])
    order = np.argsort(hashes, kind="stable")
    alike = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    is_first = np.ones(count, np.bool_)
    is_first[alike + 1] = (vectors[order[alike + 1]] != vectors[order[alike]]).any(axis=1)
    firsts = order[is_first]
    which = np.empty(count, np.intp)
    which[order] = rank_of(np.argsort(firsts)).astype(np.intp)[np.cumsum(is_first) - 1]
    return (vectors if len(firsts) == count else vectors[np.sort(firsts)]), which


HASHED = 4096
"""Vectors that are hashed at once."""


def _hashes(vectors: Vectors) -> npt.NDArray[np.uint64]:
    """Of the bits of each (k, dimension), uint64 (k,); 16 of them by a random number of 64 (multilinear hashing)."""
    random = np.random.default_rng(1).integers(0, 2**64, vectors.shape[1], np.uint64, endpoint=False)
    hashes: npt.NDArray[np.uint64] = vectors.view(np.uint16).astype(np.uint64) @ random
    return hashes


def _built(vectors: Vectors, stop: Callable[[], bool]) -> tuple[bytes, npt.NDArray[np.uint32]]:
    """The graph of the vectors as a file has it, and those that it does not find (Malkov and Yashunin, 2018, has no
    promise)."""
    graph = _graph(vectors.shape[1])
    numbers = np.arange(len(vectors), dtype=np.uint64)
    for start in range(0, len(vectors), ADDED_TOGETHER):
        if stop():
            raise Stopped
        graph.add(numbers[start : start + ADDED_TOGETHER], vectors[start : start + ADDED_TOGETHER], threads=1)
    lost = numbers
    for expansion in (AUDIT_EXPANSION, EXPANSION):
        graph.expansion_search = expansion
        lost = _unfound(graph, vectors, lost, stop)
    blob = graph.save() or b""
    there = np.frombuffer(blob, "<f2", vectors.size, GRAPH_HEAD) if len(blob) >= GRAPH_HEAD + vectors.nbytes else None
    if there is None or not np.array_equal(there, vectors.reshape(-1)):
        raise ValueError("usearch lays its files out in another way; agentmem cannot use this version of it")
    return blob, lost.astype(np.uint32)


def _unfound(
    graph: Any, vectors: Vectors, numbers: npt.NDArray[np.uint64], stop: Callable[[], bool]
) -> npt.NDArray[np.uint64]:
    unfound = [numbers[:0]]
    for start in range(0, len(numbers), ADDED_TOGETHER):
        if stop():
            raise Stopped
        asked = numbers[start : start + ADDED_TOGETHER]
        found = graph.search(vectors[asked], 1, threads=1).keys.reshape(-1)
        unfound.append(asked[found != asked])
    return np.concatenate(unfound)


def _graph(dimension: int) -> Any:
    # Late: only stores with large owners need it. And first the other: to import it after usearch crashes the process.
    import onnxruntime  # noqa: F401
    from usearch.index import Index

    return Index(
        ndim=dimension, metric="ip", dtype="f16", connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD,
        expansion_search=EXPANSION, enable_key_lookups=False,
    )  # fmt: skip


def _write(file: IO[bytes], columns: dict[str, npt.NDArray[Any]], vectors: Vectors, graph: bytes | None) -> bytes:
    """The vectors come last, alone or in their graph."""
    large = _bytes_of(vectors) if graph is None else graph
    sizes = {name: column.nbytes for name, column in columns.items()} | {"vectors": len(large)}
    # The places in the file depend on the length of the head that tells them: room for it is left first.
    room = _aligned(16 + 200 * len(sizes))
    starts, at = {}, room
    for name, size in sizes.items():
        starts[name] = at
        at = _aligned(at + max(1, size))
    head = json.dumps({
        "columns": {name: (column.dtype.str, len(column), starts[name]) for name, column in columns.items()},
        "vectors": (*vectors.shape, starts["vectors"] + (GRAPH_HEAD if graph else 0)),
        "graph": (starts["vectors"], len(graph)) if graph else None,
    }).encode()  # fmt: skip
    parts = {0: MAGIC + len(head).to_bytes(8, "little") + head, starts["vectors"]: large}
    parts |= {starts[name]: _bytes_of(column) for name, column in columns.items()}
    digest = hashlib.blake2b(digest_size=16)
    written = 0
    for start, part in sorted(parts.items()):
        for each in (bytes(start - written), part):
            file.write(each)
            digest.update(each)
        written = start + len(part)
    return digest.digest()


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """The memory of an array, not a copy of it."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _aligned(position: int) -> int:
    return -(-position // ALIGNED) * ALIGNED
