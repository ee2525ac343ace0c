"""`python -m nephoscope.cli`: the console script by its module, as supervised children are started."""

from nephoscope.cli.app import main
from nephoscope.cli.supervisor import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    main()
