"""From recipes and `-c key=value` to a run configuration."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from common.config import RunConfig, Scalar, Section, flatten, nearest

RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_recipe(name: str) -> dict[str, Scalar]:
    """The configuration keys of a recipe: one that ships with the package, or a TOML file.

    Raises:
        ValueError: there is none of that name, or the file is no TOML; one line.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        table.pop("recipe", None)
        return flatten(table)
    except FileNotFoundError:
        known = recipe_names()
        raise ValueError(f"unknown recipe {name!r}{nearest(name, known)}; known: {', '.join(known)}") from None
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_setting(text: str) -> tuple[str, Scalar]:
    """Key and value of `key=value`; the value as TOML has it, or the word itself.

    Raises:
        ValueError: there is no `=` in it.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"-c {text}: must be key=value")
    try:
        parsed: object = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return key.strip(), parsed if isinstance(parsed, Scalar) else value


def the_recipe(recipe: str, named: str) -> str:
    """The recipe that was given as an argument, by `--recipe` or not at all.

    Raises:
        ValueError: two were given.
    """
    if recipe and named and recipe != named:
        raise ValueError(f"two recipes, {recipe!r} and {named!r}: give one")
    return recipe or named


def configure(recipe: str, settings: Sequence[str], given: Mapping[str, Scalar | None]) -> RunConfig:
    """The configuration of a recipe, overridden by `settings`, overridden by the options that were `given`.

    Raises:
        ValueError: one line that names what is wrong and what is allowed.
    """
    from common.methods import parse_config

    flat: dict[str, Scalar] = read_recipe(recipe) if recipe else {}
    flat |= dict(read_setting(text) for text in settings)
    flat |= {key: value for key, value in given.items() if value is not None}
    return parse_config(flat)


def options_table(section: str) -> Table:
    """Every configuration key, or a section's, with its default and what it means.

    Raises:
        ValueError: there is no such section; names the nearest.
    """
    from common.methods import FullConfig

    defaults = FullConfig()
    tables: dict[str, Section] = {"": defaults}
    tables |= {name: part for name, part in defaults if isinstance(part, Section)}
    if section not in tables:
        known = [name for name in tables if name]
        raise ValueError(f"unknown section {section!r}{nearest(section, known)}; known: {', '.join(known)}")
    shown = Table("key", "default", "meaning", header_style="bold")
    for name, part in tables.items():
        if section not in {"", name}:
            continue
        for field, info in type(part).model_fields.items():
            value = getattr(part, field)
            if not isinstance(value, Section):
                key = f"{name}.{info.alias}" if name else str(info.alias)
                shown.add_row(
                    key, "true" if value is True else "false" if value is False else str(value), info.description
                )
    return shown
