"""`python -m agentmem.cli`, for when the script `agentmem` is not on the path."""

from agentmem.cli import main

main(prog_name="agentmem")
