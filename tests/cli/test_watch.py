"""`agentmem watch`: the figures of a store, while another process uses it."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from agentmem import Memory
from agentmem.testing import HashEmbedder
from tests.command_line import finished


@pytest.fixture
def busy(db):
    """A store that this process has open."""
    with Memory(db, embedder=HashEmbedder()) as memory:
        memory.add_batch(["one", "two"], user_id="ana", agent_id="desk")
        yield memory
        assert memory.check() == []


@pytest.mark.slow
def test_every_look_is_a_line_of_json_that_follows_what_others_do(busy, db, start):
    process = start("watch", "--json", "--interval", "0.1", "--count", "1000")
    first = json.loads(process.stdout.readline())
    assert first["path"] == str(db)
    assert (first["memories"], first["users"], first["agents"], first["runs"]) == (2, 1, 1, 0)
    assert first["per_second"] is None
    busy.add_batch([f"text {number}" for number in range(50)], user_id="ben")
    busy.delete(busy.get_all(user_id="ana").records[0].id)
    looks = [first]
    while (looks[-1]["memories"], looks[-1]["deleted"]) != (51, 1):
        looks.append(json.loads(process.stdout.readline()))
    assert looks[-1]["changes"] == first["changes"] + 51
    assert looks[-1]["users"] == 2
    assert any(look["per_second"]["memories"] > 0 for look in looks[1:])
    assert any(look["per_second"]["changes"] > 0 for look in looks[1:])
    assert set(looks[-1]["per_second"]) <= set(looks[-1])
    process.send_signal(signal.SIGINT)
    assert finished(process)[0::2] == (0, "")


@pytest.mark.slow
def test_what_waits_for_its_vector_is_told_with_its_age(db, start):
    with Memory(db, model=None) as memory:
        memory.add("put off", user_id="ana", defer=True)
        code, stdout, stderr = finished(start("watch", db, "--json", "--count", "1"))
        look = json.loads(stdout)
        assert (code, stderr, look["pending"]) == (0, "", 1)
        assert look["pending_seconds"] > 0


@pytest.mark.slow
def test_without_a_terminal_a_look_is_a_line_for_people(busy, db, start):
    code, stdout, stderr = finished(start("watch", db, "--count", "2", "--interval", "0.1"))
    assert (code, stderr) == (0, "")
    lines = stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  memories 2  pending 0  vectors 2  changes \d+  bytes ", line)


@pytest.mark.slow
def test_a_terminal_shows_the_figures_in_their_place_until_ctrl_c(busy, db, terminal):
    shown = terminal("watch", db, "--interval", "0.1")
    first = shown.until(r"log bytes.*\n")
    assert first.startswith("\x1b[?25l")
    assert re.search(r"memories +\x1b\[0m +2\b", first)
    height = first.count("\n")
    busy.add("three", user_id="ana")
    again = shown.until(r"memories +\x1b\[0m +3\b")
    assert f"\x1b[{height}A" in again
    assert "\n\n" not in again.replace("\r", "")
    shown.type("\x03")
    assert shown.code() == 0
    assert shown.shown.endswith("\x1b[?25h")
    assert "Traceback" not in shown.shown


def processor_seconds(pid: int) -> float:
    """What a process has used so far."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_watching_costs_little_and_holds_nothing_up(busy, start):
    process = start("watch", "--json", "--interval", "0.1")
    process.stdout.readline()
    before, began = processor_seconds(process.pid), time.monotonic()
    for _ in range(20):
        process.stdout.readline()
    seconds = time.monotonic() - began
    assert processor_seconds(process.pid) - before <= seconds / 2
    for record in busy.get_all(user_id="ana"):
        assert busy.purge(record.id) == 1  # Waits for the reader.
    process.send_signal(signal.SIGINT)
    assert finished(process)[0] == 0


@pytest.mark.slow
def test_a_store_that_is_taken_away_ends_the_watch(busy, db, start, tmp_path):
    process = start("watch", "--json", "--interval", "0.1")
    process.stdout.readline()
    db.rename(tmp_path / "elsewhere.db")
    code, _, stderr = finished(process)
    db.with_name("elsewhere.db").rename(db)
    assert code == 3
    assert stderr.endswith("was removed or replaced; watch it again.\n")


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_the_watch(busy, start):
    process = start("watch", "--interval", "0.1")
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141


def test_there_is_nothing_to_watch_where_there_is_no_store(db, start):
    code, stdout, stderr = finished(start("watch", db))
    assert (code, stdout) == (3, "")
    assert "There is no store" in stderr
    assert not db.exists()
