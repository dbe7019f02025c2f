"""`delete`, `restore`, `purge` and `reset`."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from agentmem.cli import options
from agentmem.cli.exit_codes import DONE, NOTHING
from agentmem.cli.opening import open_memory, scoped
from agentmem.cli.options import OWNERS
from agentmem.cli.output import complain, counted, escape, print_json, print_lines
from agentmem.errors import NotFoundError

if TYPE_CHECKING:
    from agentmem.memory import Memory


@click.command()
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All memories of the owner that pass the filter.")
@options.owner
@options.all_scopes
@options.filters
@options.between
@options.dry_run
@options.yes
@options.db
@options.output
def delete(
    ids: tuple[str, ...], everything: bool, dry_run: bool, yes: bool, db: str, as_json: bool, **asked: Any
) -> int:
    """Hide memories from every read; their history stays.

    Takes the ids of memories, or with --all those of an owner. `restore` undoes it. With --json one object: deleted,
    missing, dry_run. Exits with 1 when an id is missing, or nothing was there.

    \b
    Examples:
      agentmem delete 01a2024a-36e1-7cc2-89ab-3d8a1d8c3f0e
      agentmem delete --all --user ana --filter '{"topic": "travel"}' --dry-run
      agentmem delete --all --run monday --yes
    """
    _require_choice(ids, everything)
    if ids and (asked["filters"] or asked["between"] or asked["all_scopes"]):
        raise click.UsageError("--filter, --between and --all-scopes go with --all.")
    if everything:
        options.require_owner(asked)
    with open_memory(db) as memory:
        if everything:
            missing: list[str] = []
            deleted = _delete_all(memory, asked, dry_run=dry_run, yes=yes, as_json=as_json)
        else:
            deleted, missing = _delete_ids(memory, ids, {name: asked[name] for name in OWNERS}, dry_run=dry_run)
    for name in missing:
        complain(f"There is no memory {name!r} to delete.")
    if as_json:
        print_json({"deleted": deleted, "missing": missing, "dry_run": dry_run})
    else:
        print_lines(f"{counted(deleted)} {'would be ' if dry_run else ''}deleted.")
    return NOTHING if missing or not deleted else DONE


def _delete_ids(
    memory: "Memory", ids: Sequence[str], owner: Mapping[str, str | None], *, dry_run: bool
) -> tuple[int, list[str]]:
    scope = scoped(memory, owner)
    different = list(dict.fromkeys(ids))
    missing = [each for each in different if not (scope.get(each) if dry_run else scope.delete(each))]
    return len(different) - len(missing), missing


def _delete_all(memory: "Memory", asked: dict[str, Any], *, dry_run: bool, yes: bool, as_json: bool) -> int:
    count = memory.delete_all(**asked, dry_run=True)
    if dry_run or not count:
        return count
    if not confirmed(f"delete {counted(count)}", yes, as_json, or_else="--dry-run"):
        return 0
    return memory.delete_all(**asked)


@click.command()
@click.argument("ids", nargs=-1, required=True)
@options.owner
@options.db
@options.output
def restore(ids: tuple[str, ...], db: str, as_json: bool, **owner: str | None) -> int:
    """Bring deleted or expired memories back.

    A restored memory no longer expires. Prints the ids; with --json a record on a line. Exits with 1 when a memory is
    missing: never stored, purged, or of another owner.

    \b
    Examples:
      agentmem restore 01a2024a-36e1-7cc2-89ab-3d8a1d8c3f0e
      agentmem restore m1 m2 --user ana --json
    """
    missing = 0
    with open_memory(db) as memory:
        for each in dict.fromkeys(ids):
            try:
                record = scoped(memory, owner).restore(each)
            except NotFoundError:
                missing += 1
                complain(f"There is no memory {each!r} to restore.")
            else:
                print_json(record) if as_json else print_lines(escape(record.id))
    return NOTHING if missing else DONE


@click.command()
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every memory of the owner, deleted ones too.")
@options.owner
@options.yes
@options.progress
@options.db
@options.output
def purge(
    ids: tuple[str, ...], everything: bool, yes: bool, bar: bool, db: str, as_json: bool, **owner: str | None
) -> int:
    """Erase memories for good: no byte of them stays in the store.

    Takes the ids of memories, or with --all those of an owner, deleted and expired ones too. Nothing brings them back.
    Copies are yours to erase. With --json one object: purged, missing. Exits with 1 when an id is missing, or nothing
    was there.

    \b
    Examples:
      agentmem purge 01a2024a-36e1-7cc2-89ab-3d8a1d8c3f0e
      agentmem purge --all --user ana --yes
    """
    _require_choice(ids, everything)
    if everything:
        options.require_owner(owner)
    different = list(dict.fromkeys(ids))
    with open_memory(db) as memory:
        scope = scoped(memory, owner)
        whose = " and ".join(f"{name.removesuffix('_id')} {value!r}" for name, value in owner.items() if value)
        what = f"every memory of {whose}" if everything else counted(len(different))
        if not confirmed(f"erase {what} for good", yes, as_json):
            return NOTHING
        missing = [each for each in different if not scope.purge(each, progress=bar)]
        purged = scope.purge(progress=bar) if everything else len(different) - len(missing)
    for name in missing:
        complain(f"There is no memory {name!r} to erase.")
    print_json({"purged": purged, "missing": missing}) if as_json else print_lines(f"{counted(purged)} erased.")
    return NOTHING if missing or not purged else DONE


@click.command()
@options.path
@options.yes
@options.progress
@options.db
@options.output
def reset(path: str | None, yes: bool, bar: bool, db: str, as_json: bool) -> int:
    """Erase every memory of every owner for good, as `purge` does.

    The store is PATH, or --db. The file stays, and its model. With --json one object: purged. Exits with 1 when there
    was nothing.

    \b
    Examples:
      agentmem reset
      agentmem reset trial.db --yes
    """
    with open_memory(path or db) as memory:
        held = memory.stats()
        count = held.store.memories + held.store.deleted
        if count and not confirmed(f"erase all {counted(count)} of {memory.path} for good", yes, as_json):
            return NOTHING
        purged = memory.reset(confirm=True, progress=bar)
    print_json({"purged": purged}) if as_json else print_lines(f"{counted(purged)} erased.")
    return DONE if purged else NOTHING


def _require_choice(ids: Sequence[str], everything: bool) -> None:
    if bool(ids) == everything:
        raise click.UsageError("Give either ids, or --all with an owner.")


def confirmed(what: str, yes: bool, as_json: bool, *, or_else: str | None = None) -> bool:
    """Whether the user at the terminal agrees, or has passed `--yes`.

    Raises:
        click.UsageError: There is no terminal to ask at.
    """
    if yes:
        return True
    if as_json or not sys.stdin.isatty():
        raise click.UsageError(f"This would {what}; pass --yes to do it{f', or {or_else}' if or_else else ''}.")
    return click.confirm(f"{what[0].upper()}{escape(what[1:])}?", err=True)
