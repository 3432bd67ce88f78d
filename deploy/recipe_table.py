"""`fedmoap recipes`: experiments that ship with the package, their cost and what they are held against."""

import tomllib
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from deploy.settings import RECIPES, recipe_names


@dataclass(frozen=True)
class Recipe:
    """What a recipe says of itself."""

    name: str
    title: str
    source: str
    cost: str
    command: str
    published: str = ""


def load_recipe(name: str) -> Recipe:
    """The `[recipe]` table of a recipe that ships with the package.

    Raises:
        KeyError: it lacks a title, source, cost or command.
        FileNotFoundError: there is none of that name.
    """
    about = tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))["recipe"]
    required = {key: str(about[key]) for key in ("title", "source", "cost", "command")}
    return Recipe(name, published=str(about.get("published", "")), **required)


def recipes() -> None:
    """List the recipes: an experiment each, with source, published figures, cost and command."""
    table = Table("recipe", "experiment", header_style="bold", show_lines=True)
    for recipe in map(load_recipe, recipe_names()):
        parts = {
            "source": recipe.source,
            "published": recipe.published,
            "cost": recipe.cost,
            "run": recipe.command,
        }
        lines = [
            f"[bold]{recipe.title}[/]",
            *(f"[dim]{key}:[/] {text}" for key, text in parts.items() if text),
        ]
        table.add_row(recipe.name, "\n".join(lines))
    Console().print(table)
