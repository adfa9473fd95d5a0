"""Pages say what is so: each recipe has one, commands are commands, the gallery shows every operator."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys

import pytest
from commands import PAGES, ROOT, check, commands, whole, words_of
from test_examples import EXAMPLES, load

from pipeline.config import ConfigError
from stages import recipe

SECTIONS = [
    "What it assumes",
    "What it promises",
    "When to use it",
    "Options that matter",
    "Measured",
    "What it does not do",
    "Papers",
]
RECIPES = sorted(recipe.names())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_page_with_every_section_and_a_command(name):
    text = (ROOT / "docs" / "recipes" / f"{name}.md").read_text()
    assert text.startswith(f"# {name}: ")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert [section for section in SECTIONS if section not in headings] == []
    assert any(words_of(command)[:2] == ["run", name] for command in commands(text))


def test_every_page_of_a_recipe_is_of_one_and_is_chosen_from():
    pages = sorted(path.stem for path in (ROOT / "docs" / "recipes").glob("*.md"))
    assert pages == RECIPES
    choose = (ROOT / "docs" / "choose.md").read_text()
    assert [name for name in RECIPES if f"recipes/{name}.md" not in choose] == []


@pytest.fixture(scope="module")
def examples():
    """What docs/own.md has the reader save."""
    from stages import recipes

    before = list(recipes.__path__)
    load("pipeline.physics.interlaced", "interlaced.py")
    recipes.__path__ = [*before, str(EXAMPLES)]
    yield
    recipes.__path__ = before
    sys.modules.pop("pipeline.physics.interlaced", None)
    sys.modules.pop("stages.recipes.halved", None)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_on_a_page_is_taken(page, examples, monkeypatch):
    for command in dict.fromkeys(commands(page.read_text())):
        try:
            check(words_of(command), monkeypatch)
        except ConfigError as error:
            pytest.fail(f"{command}\n{error}")


@pytest.mark.parametrize(
    "wrong",
    [
        "kintsugi run plain --clases 10",
        "kintsugi walk plain",
        "kintsugi run partial_views --set view_fit.imges=3",
        "kintsugi run corrupted --corruption '{is: pipeline.physics.masks.PixelMusk}'",
        "kintsugi sample plain/model --cuont 3",
        "kintsugi submit -- run plain --clases 3",
    ],
)
def test_a_command_that_is_none_is_found_out(wrong, monkeypatch):
    with pytest.raises(ConfigError):
        check(words_of(wrong), monkeypatch)


def test_commands_go_on_over_lines_and_end_at_comments():
    block = "ls\nkintsugi run em --set 'corruption={\n  is: x}'   # why\nkintsugi ls \\\n  --json\n"
    assert [words_of(command) for command in whole(block)] == [
        ["run", "em", "--set", "corruption={\n  is: x}"],
        ["ls", "--json"],
    ]


def test_the_gallery_shows_every_operator(monkeypatch):
    from pipeline import physics
    from pipeline.physics.blackbox import Filter
    from pipeline.physics.conditions import Condition
    from pipeline.physics.corruption import Corruption
    from pipeline.physics.ghost import Patterns
    from pipeline.physics.linear import LinearMap
    from pipeline.physics.sensors import Sensor

    monkeypatch.syspath_prepend(str(ROOT / "docs" / "making"))
    gallery = importlib.import_module("gallery")
    kinds = (Filter, Condition, Corruption, Patterns, LinearMap, Sensor)
    there = set()
    for found in pkgutil.iter_modules(physics.__path__):
        for name, value in vars(importlib.import_module(f"pipeline.physics.{found.name}")).items():
            own = inspect.isclass(value) and value.__module__ == f"pipeline.physics.{found.name}"
            if own and issubclass(value, kinds) and not inspect.isabstract(value) and not name.startswith("_"):
                there.add(name)
    shown = {name for entries in gallery.ROOMS.values() for entry in entries for name in entry.names}
    there -= {"Through", "LabelError", "Selection", "Interlaced"}  # what carries a map; halves of others
    assert there - shown - gallery.BEHIND - gallery.TOLD == set(), "add an entry to docs/making/gallery.py"
    assert (shown | gallery.BEHIND | gallery.TOLD) - there == set()
    told = (ROOT / "docs" / "operators.md").read_text()
    assert all(f"conditions.{name}`" in told for name in gallery.TOLD)
