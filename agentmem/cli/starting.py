"""`demo` and `completion`."""

import tempfile
from dataclasses import asdict
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from agentmem.cli import options
from agentmem.cli.exit_codes import DONE
from agentmem.cli.opening import open_memory
from agentmem.cli.output import escape, fitted, match_rows, print_json, print_lines
from agentmem.progress import progress


@click.command()
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the store under this path, which must be new.")
@click.option("--limit", type=click.IntRange(1, 80), default=3, show_default=True, help="Matches a question.")
@options.progress
@options.model
@options.output
def demo(keep: Path | None, limit: int, bar: bool, model: str, as_json: bool) -> int:
    """Remember a conversation in a temporary store, and ask it.

    80 turns, five questions.

    \b
    Examples:
      agentmem demo
      agentmem demo --keep demo.db && agentmem shell demo.db --user demo
    """
    if keep is not None and keep.exists():
        raise click.UsageError(f"{str(keep)!r} exists already; --keep takes a path that does not.")
    with tempfile.TemporaryDirectory(prefix="agentmem-demo-") as folder:
        path = str(keep or Path(folder) / "demo.db")
        with open_memory(path, model, create=True) as memory:
            from agentmem.cli.demo import conversation, demonstrate

            with progress("turn", len(conversation()), shown=bar) as advance:
                result = demonstrate(memory, limit, advance)
    if as_json:
        print_json({**asdict(result), "kept": None if keep is None else path})
        return DONE
    print_lines(*result.summary())
    for answer in result.answers:
        rows = match_rows(answer.matches, ids=False)
        print_lines("", answer.question, *fitted(rows, indent=2, styles={0: "strong", 2: "faint"}))
    kept = f"Kept. Try: agentmem shell {keep} --user demo"
    print_lines("\nThe temporary store is deleted." if keep is None else f"\n{escape(kept)}")
    return DONE


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@options.output
def completion(shell: str, as_json: bool) -> int:
    """Print what makes a shell complete commands and options.

    With --json one object: shell, script.

    \b
    Examples:
      eval "$(agentmem completion bash)"
      agentmem completion zsh > ~/.zfunc/_agentmem
      agentmem completion fish > ~/.config/fish/completions/agentmem.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    group = click.get_current_context().find_root().command
    script = kind(group, {}, "agentmem", "_AGENTMEM_COMPLETE").source().rstrip()
    print_json({"shell": shell, "script": script}) if as_json else print_lines(script)
    return DONE
