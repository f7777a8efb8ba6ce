"""The pages of the diagnostic codes are true: each example has its mistake and no other, the repaired one has none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from router import config
from router.config.diagnostics import CODES, Code, Diagnostic
from router.config.pages import EXAMPLE, Page, page, pages
from tests.support.certificates import Authority


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the examples name."""
    directory = tmp_path_factory.mktemp("tls") / "files"
    authority = Authority(directory)
    authority.issue("router")
    (directory / "token").write_text("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
    return directory


def loaded(one: Page, text: str, encoding: str, directory: Path, files: Path) -> tuple[Diagnostic, ...]:
    for name in ("ca.pem", "router.pem", "router.key", "token"):
        shutil.copy(files / name, directory)
    if one.around:
        (directory / "around.yaml").write_text(one.around, "utf-8")
    (directory / EXAMPLE).write_bytes(text.encode(encoding))
    return config.load(directory).diagnostics


def test_every_code_has_one_page() -> None:
    assert [one.code for one in pages()] == sorted(Code)
    assert all(page(code).title == CODES[code] for code in Code)


@pytest.mark.parametrize("one", pages(), ids=[one.code for one in pages()])
def test_the_example_of_a_page_has_its_mistake_and_no_other(one: Page, tmp_path: Path, files: Path) -> None:
    found = loaded(one, one.example, one.encoding, tmp_path, files)
    assert [str(diagnostic).replace(f"{tmp_path}/", "") for diagnostic in found] == [one.diagnostic]
    assert found[0].code == one.code


@pytest.mark.parametrize("one", pages(), ids=[one.code for one in pages()])
def test_the_repaired_example_of_a_page_has_no_mistake(one: Page, tmp_path: Path, files: Path) -> None:
    assert [str(diagnostic) for diagnostic in loaded(one, one.repaired, "utf-8", tmp_path, files)] == []


@pytest.mark.parametrize("one", pages(), ids=[one.code for one in pages()])
def test_a_page_says_what_happens_and_what_to_do(one: Page) -> None:
    assert all(text.endswith(".") and len(text) > 20 for text in (one.meaning, one.remedy))
    assert one.example.count("\n") <= 40
