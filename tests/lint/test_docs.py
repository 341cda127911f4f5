"""What the pages point to exists, and they name no unknown option or target."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("examples/*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    named = re.findall(r"`((?:docs|examples|tests|hw_profiles|haqnas|kernels|cli)/[\w./-]*\w)`", text)
    missing += [name for name in named if not (REPOSITORY / name).exists()]
    assert not missing


def test_every_shipped_profile_is_on_the_page_of_targets():
    text = (REPOSITORY / "docs" / "targets.md").read_text(encoding="utf-8")
    profiles = {path.stem for path in (REPOSITORY / "hw_profiles").glob("*.toml")}
    assert profiles
    assert not {name for name in profiles if f"`{name}`" not in text}
