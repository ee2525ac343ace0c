"""`python -m nephoscope.cli`: the console script without an installation."""

from nephoscope.cli import main

main()
