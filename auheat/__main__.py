"""`python -m auheat`."""

from auheat.cli import main

main(prog_name="auheat")
