"""The command line: `agentmem`. Only this folder imports click.

A command's module is imported when the command is used. The functions import agentmem.memory (numpy, apsw) when they
need it, so that `--help` and a mistyped option wait for neither.
"""

import click

import agentmem
from agentmem.cli.exit_codes import MEANINGS
from agentmem.cli.group import Commands
from agentmem.cli.options import debug

main = Commands(
    "agentmem",
    {
        "add": "remembering",
        "backup": "keeping",
        "check": "keeping",
        "completion": "starting",
        "count": "finding",
        "delete": "forgetting",
        "demo": "starting",
        "export": "porting",
        "flush": "keeping",
        "get": "finding",
        "history": "finding",
        "import": "porting",
        "import-mem0": "porting",
        "list": "finding",
        "mcp": "serving",
        "models": "models",
        "purge": "forgetting",
        "reembed": "models",
        "repair": "keeping",
        "reset": "forgetting",
        "restore": "forgetting",
        "search": "finding",
        "serve": "serving",
        "shell": "shell",
        "stats": "keeping",
        "token": "serving",
        "update": "remembering",
        "vacuum": "keeping",
        "watch": "watching",
    },
    help="""Memory for AI agents, in one file. Start with `agentmem demo`.

    \b
    Examples:
      agentmem add "Prefers window seats" --user ana
      agentmem search "where does she like to sit?" --user ana
      agentmem list --user ana --json | jq -r .content
      eval "$(agentmem completion bash)"

    The store is --db, AGENTMEM_DB or agentmem.db. What is asked for goes to standard output, with --json as one JSON
    document or as JSON Lines; everything else goes to standard error. Colours are for terminals, and not with NO_COLOR.

    \b
    Exit codes:
    """
    + "\n    ".join(f"  {code:<5}{meaning}" for code, meaning in MEANINGS.items()),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[],
)
main = click.version_option(agentmem.__version__, prog_name="agentmem")(debug(main))
