"""`python -m agentmem.cli`, for when the script `agentmem` is not on the path."""

from agentmem.cli import main

if __name__ == "__main__":  # A worker process of `serve` imports this module, too.
    main(prog_name="agentmem")
