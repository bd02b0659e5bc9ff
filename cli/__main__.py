"""`python -m auheat.cli`."""

from auheat.cli import main

main(prog_name="auheat")
