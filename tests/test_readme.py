"""What README.md says is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nephoscope.pipeline import parse_pipeline

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(first):
    """The indented block that begins with this line."""
    start = README.index(f"    {first}\n")
    lines = README[start:].splitlines()
    end = next(i for i, line in enumerate(lines) if line and not line.startswith("    "))
    return "\n".join(line[4:] for line in lines[:end])


def test_its_pipeline_loads():
    (sink,) = parse_pipeline(block("sources:"), publisher_schemes=()).sinks

    assert sink.name == "rates"


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_recipe_it_names_is_in_the_justfile():
    recipes = set(re.findall(r"^(\w+)(?: \*?\w+)*:", (ROOT / "justfile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\./justw (\w+)", README))

    assert named
    assert named <= recipes


def test_every_command_it_names_is_one_and_no_command_is_forgotten():
    named = set(re.findall(r"^\| `nephoscope ([a-z-]+)", README, re.MULTILINE))
    done = subprocess.run(
        [sys.executable, "-m", "nephoscope.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "80"},
    )

    assert named == set(re.findall(r"^│ ([a-z-]+) {2,}\w", done.stdout, re.MULTILINE))


@pytest.mark.parametrize("file", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_the_files_that_other_pages_name_are_there(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    named = re.findall(r"`((?:nephoscope|flows|sources|sinks|conf|tests|bench|docs)/[\w/.]*\w/?)`", text)

    assert named
    assert [n for n in named if not (ROOT / n).exists()] == []
