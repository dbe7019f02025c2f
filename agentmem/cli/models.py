"""`models list`, `info`, `download`, `remove` and `quantize`, and `reembed`."""

from dataclasses import asdict
from typing import Any

import click

from agentmem.cli import options
from agentmem.cli.exit_codes import DONE, NOTHING
from agentmem.cli.opening import open_memory
from agentmem.cli.output import complain, escape, fitted, print_json, print_lines


@click.group()
def models() -> None:
    """List, fetch, describe and shrink models.

    Only `models download` reaches the network. Models are kept in ~/.cache/agentmem/models, or where AGENTMEM_MODELS
    says.
    """


@models.command("list")
@options.full
@options.output
def list_(full: bool, as_json: bool) -> int:
    """Print the models that --model takes.

    Bundled models, downloaded ones, and those that can be downloaded. With --json a model on a line.

    \b
    Examples:
      agentmem models list
      agentmem models list --json | jq -r 'select(.where == "downloaded").name'
    """
    from agentmem import models as library

    entries = library.available()
    if as_json:
        print_json(*entries)
    else:
        rows = [[entry.name, entry.where, str(entry.dimension or ""), entry.license, entry.about] for entry in entries]
        print_lines(*fitted(rows, full=full, styles={1: "faint"}))
    return DONE


@models.command()
@click.argument("name", shell_complete=options.model_names)
@options.output
def info(name: str, as_json: bool) -> int:
    """Print what is known of a model on this machine.

    NAME is as --model takes it: a bundled model, a folder, or a downloaded one. Its files are read; exits with 1 when
    one of them is missing or damaged. With --json one object.

    \b
    Examples:
      agentmem models info all-MiniLM-L6-v2
      agentmem models info ./my-model --json | jq .dimension
    """
    from agentmem import models as library

    return _show(library.info(name), as_json)


@models.command()
@click.argument("name", shell_complete=options.model_names)
@click.option("--revision", metavar="COMMIT", help="A commit of 40 digits, a branch or a tag. [default: main]")
@click.option("--pooling", type=click.Choice(["cls", "mean", "last"]), help="Instead of the repository's pooling.")
@click.option("--query-prefix", metavar="TEXT", help="The text put before queries.")
@click.option("--document-prefix", metavar="TEXT", help="The text put before stored texts.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest text that the model reads.")
@click.option("--dimension", type=click.IntRange(1), help="Keep only the first values of a vector.")
@click.option("--endpoint", metavar="URL", help="The hub. [default: HF_ENDPOINT, or the public one]")
@click.option("--token", envvar="AGENTMEM_TOKEN", show_envvar=True, metavar="TOKEN", help="For the hub.")
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    default=600,
    show_default=True,
    help="Seconds to wait for another process.",
)
@options.progress
@options.output
def download(name: str, timeout: float, bar: bool, as_json: bool, **asked: Any) -> int:
    """Download a model of the Hugging Face hub, once.

    NAME is a repository, such as BAAI/bge-small-en-v1.5, or with @ and a commit. Afterwards it is on the disk and
    verified, and --model takes its name. An interrupted download resumes. With --json one object, as of `models info`.

    \b
    Examples:
      agentmem models download BAAI/bge-small-en-v1.5
      agentmem models download intfloat/multilingual-e5-small --revision main --progress
    """
    from agentmem import models as library

    return _show(library.download(name, progress=bar, timeout=timeout, **asked), as_json)


@models.command()
@click.argument("name", shell_complete=options.model_names)
@options.output
def remove(name: str, as_json: bool) -> int:
    """Delete a downloaded model.

    NAME is a repository with all its revisions, or one revision of it with @ and a commit. With --json one object:
    removed, bytes.

    \b
    Examples:
      agentmem models remove BAAI/bge-small-en-v1.5
      agentmem models remove BAAI/bge-small-en-v1.5 --json
    """
    from agentmem import models as library

    freed = library.remove(name)
    print_json({"removed": name, "bytes": freed}) if as_json else print_lines(escape(f"{name}: {freed:,} bytes free."))
    return DONE


@models.command()
@click.argument("source", shell_complete=options.model_names)
@click.argument("target", type=click.Path())
@click.option(
    "--calibration",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="A text on every line, some hundreds like those to be embedded. [default: English sentences]",
)
@options.progress
@options.output
def quantize(source: str, target: str, calibration: str | None, bar: bool, as_json: bool) -> int:
    """Write the int8 form of a model into a new folder.

    SOURCE is a folder, or a downloaded model; afterwards --model takes the TARGET. It is faster on a CPU, and its
    vectors do not depend on their batch. Prints how near they are to the old ones. Needs the extra: pip install
    'agentmem[quantize]'. With --json one object.

    \b
    Examples:
      agentmem models quantize BAAI/bge-small-en-v1.5 ./bge-int8
      agentmem models quantize ./my-model ./my-model-int8 --calibration texts.txt --json
    """
    from agentmem.quantize import quantize as shrink

    texts = None
    if calibration is not None:
        with click.open_file(calibration, encoding="utf-8") as lines:
            texts = [line.strip() for line in lines if line.strip()]
    result = asdict(shrink(source, target, calibration=texts, progress=bar))
    if as_json:
        print_json(result)
    else:
        cells = [[name.replace("_", " "), f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"]
                 for name, value in result.items() if not isinstance(value, str)]  # fmt: skip
        print_lines(*fitted([["folder", result["folder"]], *cells], full=True, styles={0: "faint"}))
    return DONE


@click.command()
@click.argument("name", required=False, shell_complete=options.model_names)
@click.option("--give-up", is_flag=True, help="Give up an unfinished move.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Stop after this time; the same command resumes.")
@options.progress
@options.db
@options.output
def reembed(name: str | None, give_up: bool, timeout: float | None, bar: bool, db: str, as_json: bool) -> int:
    """Move a store to another model, while others use it.

    The model NAME (as --model takes it) embeds every text anew. Then the models change places at one moment, in every
    process. An interrupted move resumes when run again. With --json one object: model, embedded.

    \b
    Examples:
      agentmem reembed minilm-static
      agentmem reembed ./my-model --db agent.db --progress
      agentmem reembed --give-up
    """
    if (name is None) is not give_up:
        raise click.UsageError("Pass the NAME of a model, or --give-up.")
    with open_memory(db) as memory:
        embedded = memory.reembed(name, progress=bar, timeout=timeout)
        model = memory.stats().embedding.model
    if as_json:
        print_json({"model": model, "embedded": embedded})
    else:
        print_lines(escape(f"The store is of {model}; {embedded:,} texts were embedded."))
    return DONE


def _show(found: Any, as_json: bool) -> int:
    """Prints a ModelInfo, and which of its files are missing or damaged."""
    damaged = [file.name for file in found.files if not file.whole]
    for name in damaged:
        complain(f"The file {name} of {found.name} is missing or damaged; download it again.")
    if as_json:
        print_json(asdict(found))
    else:
        told = [
            [name.replace("_", " "), str(value)] for name, value in asdict(found).items() if name != "files" and value
        ]
        sizes = [["file", f"{file.name} ({file.bytes:,} bytes)"] for file in found.files]
        print_lines(*fitted([*told, *sizes], full=True, styles={0: "faint"}))
    return NOTHING if damaged else DONE
