"""Every command explains itself."""

import subprocess
import sys

import pytest

COMMANDS = (
    ("run",),
    ("flow",),
    ("agent",),
    ("poll",),
    ("check",),
    ("dry-run",),
    ("test",),
    ("graph",),
    ("tap",),
    ("dead-letters", "list"),
    ("dead-letters", "show"),
    ("dead-letters", "replay"),
    ("meters",),
    ("sample", "list"),
    ("sample", "create"),
    ("statistics",),
    ("expire",),
    ("who",),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(nephoscope, command):
    done = nephoscope(*command, "--help")

    assert done.status == 0
    assert f"Example: nephoscope {' '.join(command)}" in done.out


def test_help_lists_every_command(nephoscope):
    listed = nephoscope("--help").out

    assert all(f" {command[0]} " in listed for command in COMMANDS)


def test_an_unknown_command_is_wrong_usage(nephoscope):
    assert nephoscope("rnu").status == 2


def test_help_needs_no_engine_and_no_arrow():
    """Help answers at once: what is slow to import is imported by the command that needs it."""
    code = (
        "import sys; sys.argv = ['nephoscope', '--help']\nfrom nephoscope.cli.app import main\n"
        "try: main()\nexcept SystemExit: pass\nprint(sorted(m for m in ('bytewax', 'sqlalchemy') if m in sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.endswith("[]\n")
