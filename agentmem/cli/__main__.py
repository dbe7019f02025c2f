"""`python -m agentmem.cli`, where the script `agentmem` is not on the path."""

from agentmem.cli import main

main(prog_name="agentmem")
