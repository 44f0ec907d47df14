"""What a stranger would stumble over in the committed text."""

from __future__ import annotations

import re

from tests.architecture.tree import ROOT, committed_files

# Spelled in pieces, so that this file passes its own test.
MACHINE_PATH = re.compile(
    r"(?<![\w.:/-])/(?:" + "|".join(["root", "home", "work", "Users"]) + r")/[\w.-]+|[A-Z]:\\\\?Users\\"
)
BINARY = {".png", ".gz", ".safetensors", ".ico", ".jpg", ".pdf"}


def test_no_file_names_a_place_on_somebodys_machine():
    found = []
    for path in committed_files():
        if path.suffix in BINARY:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_the_pattern_finds_a_path():
    assert MACHINE_PATH.search("saved to /" + "home/ada/runs")
    assert MACHINE_PATH.search('open("/' + 'root/x")')
    assert not MACHINE_PATH.search("docs/how-to/home/page")


def test_no_committed_file_is_large():
    large = {
        str(path.relative_to(ROOT)): path.stat().st_size for path in committed_files() if path.stat().st_size > 2**20
    }
    assert not large


def test_contributing_stays_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 80
