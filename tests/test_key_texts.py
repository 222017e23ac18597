"""Every key that a user can write has a text that says what it means, in sentences."""

import pytest
from pydantic import BaseModel

from kdcompress.export.formats import Target
from kdcompress.methods import methods
from kdcompress.recipe import Recipe


def sections(model):
    """The model and all models that its fields hold."""
    found = {model: None}
    for field in model.model_fields.values():
        waiting = [field.annotation]
        while waiting:
            part = waiting.pop()
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= dict.fromkeys(sections(part))
            else:
                waiting += getattr(part, "__args__", ())
    return list(found)


def without_text(model):
    texts = {name: field.description or "" for name, field in model.model_fields.items()}
    return [f"{name}: {text!r}" for name, text in texts.items() if not (text[:1].isupper() and text.endswith("."))]


@pytest.mark.parametrize("name", sorted(methods))
def test_options_of_a_method(name):
    assert without_text(methods[name].Options) == []


@pytest.mark.parametrize("section", [*sections(Recipe), *sections(Target)], ids=lambda section: section.__name__)
def test_keys_of_recipes_and_targets(section):
    assert section.__doc__ not in (None, BaseModel.__doc__)
    assert without_text(section) == []


def test_the_sections_are_found():
    names = {section.__name__ for section in sections(Recipe)}
    assert {"Recipe", "Data", "Augment", "Train", "Assistant", "Candidate", "Search"} <= names
    assert {section.__name__ for section in sections(Target)} == {"Target", "Options", "Scheme"}
