"""Our pages ask a browser's network for nothing and leave its console empty; without a browser the text tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from samunet.cli import compare

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
LARGEST = 25 * 2**20  # bytes


@pytest.fixture(scope="module")
def page(trained, project, tmp_path_factory) -> Path:
    """The report of a comparison."""
    folder = tmp_path_factory.mktemp("page")
    predictions = trained / "validation"
    references = folder / "references"
    references.mkdir()
    for path in predictions.glob("*.nii.gz"):
        shutil.copy(project.workspace.raw / project.dataset / "labelsTr" / path.name, references / path.name)
    words = ["--reference", str(references), "--predictions", f"a={predictions}", f"b={predictions}"]
    words += [
        "-djfile",
        str(trained.parent / "dataset.json"),
        "--images",
        str(project.workspace.raw / project.dataset / "imagesTr"),
        "-o",
        str(folder / "o"),
    ]
    assert compare.main(words) == 0
    return folder / "o" / "report.html"


def test_a_page_names_nothing_outside_itself(page):
    text = page.read_text(encoding="utf-8")
    assert len(text) < LARGEST and "<script" not in text and "@import" not in text and "url(" not in text
    assert all(match.startswith("data:") for match in re.findall(r'\b(?:src|href|srcset|action)="([^"]*)"', text))


def look(page: Path, folder: Path, *flags: str) -> tuple[str, int, int]:
    """Open a page without network; returns the document, and how many requests and console messages it made."""
    log = folder / "net.json"
    words = [
        BROWSER,
        *FLAGS,
        *flags,
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        f"--log-net-log={log}",
    ]
    words += [f"--user-data-dir={folder / 'user'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    found = json.loads(log.read_text())
    kinds = {number: name for name, number in found["constants"]["logEventTypes"].items()}
    asked = [event.get("params", {}) for event in found["events"] if kinds[event["type"]] == "URL_REQUEST_START_JOB"]
    initiators = [
        request.get("initiator") for request in asked
    ]  # what a browser asks of its maker by itself is "not an origin"
    return (
        done.stdout,
        len([name for name in initiators if name not in (None, "not an origin")]),
        done.stderr.count("CONSOLE"),
    )


def test_on_a_phone_every_cell_says_its_column(page):
    text = page.read_text(encoding="utf-8")
    assert "@media (max-width: 44rem)" in text and text.count("<td ") == text.count('<td role="cell" data-label="') > 0


def test_a_folder_that_is_called_validation_makes_no_cross_validation(page):
    assert "hash of the split" not in page.read_text(
        encoding="utf-8"
    )  # the predictions of this page lie in fold_0/validation


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_a_browser_asks_for_nothing_and_has_nothing_to_say(page, tmp_path):
    document, requests, messages = look(page, tmp_path)
    assert "Every case" in document and (requests, messages) == (0, 0)


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_no_long_word_makes_a_page_wider_than_its_window(page, tmp_path):
    tell = (
        "<script>{ const of = document.documentElement; document.body.id = [of.clientWidth, of.scrollWidth] }</script>"
    )
    text = re.sub("(<h[1-3]>|<p>)", r"\1" + "Dataset035_ProstateNCIISBI" * 9, page.read_text(encoding="utf-8"))
    wide = tmp_path / "wide.html"
    wide.write_text(text.replace("</body>", f"{tell}</body>"))
    document, _, _ = look(wide, tmp_path, "--window-size=390,844")
    found = re.search(r'<body id="(\d+),(\d+)"', document)
    assert found and found[1] == found[2] and int(found[1]) < 700


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_the_check_would_see_a_request_and_a_message(tmp_path):
    path = tmp_path / "bad.html"
    path.write_text('<img src="http://example.org/a.png"><script>console.error("no")</script>')
    _, requests, messages = look(path, tmp_path)
    assert requests > 0 and messages > 0
