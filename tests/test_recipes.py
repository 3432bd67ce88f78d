"""Recipes: every one is a valid configuration, states its source and cost, and names a known data set."""

import io
import tomllib

import pytest
from rich.console import Console

from common.methods import METHODS
from common.sources import SOURCES
from deploy import recipe_table
from deploy.recipe_table import load_recipe, recipes
from deploy.settings import RECIPES, configure, recipe_names, the_recipe

PAPERS = ("pfedmoap", "fedclip", "fedapt")
PFEDMOAP = {  # the paper's table of settings: clients, share a round, rounds, model, partition, alpha
    "flowers102": (10, 1.0, 10, "RN50-quickgelu", "pathological", None),
    "oxford-pets": (10, 1.0, 10, "RN50-quickgelu", "pathological", None),
    "food101": (10, 1.0, 10, "RN50-quickgelu", "pathological", None),
    "caltech101": (10, 1.0, 10, "RN50-quickgelu", "pathological", None),
    "dtd": (10, 1.0, 10, "RN50-quickgelu", "pathological", None),
    "cifar10": (100, 0.1, 120, "RN50-quickgelu", "dirichlet", 0.5),
    "cifar100": (100, 0.1, 120, "RN50-quickgelu", "dirichlet", 0.5),
    "domainnet": (30, 0.25, 25, "ViT-B-16-quickgelu", "domain-dirichlet", 0.3),
    "office-caltech10": (20, 0.5, 25, "ViT-B-16-quickgelu", "domain-dirichlet", 0.3),
}


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_is_a_configuration(name: str) -> None:
    """A recipe has a title, source, cost and command of its own, and its keys are the run configuration's."""
    recipe = load_recipe(name)
    config = configure(name, [], {})
    assert recipe.title
    assert recipe.cost
    assert name in recipe.command
    assert config.data.name == "demo" or config.data.name in SOURCES
    if name.startswith(PAPERS):
        assert config.method == name.partition("-")[0]
        assert recipe.source.startswith("arXiv:")
        assert recipe.published


@pytest.mark.parametrize("name", recipe_names())
def test_nothing_is_lost(name: str) -> None:
    """The [recipe] table holds no key of the configuration, as it would if one stood below its heading."""
    about = tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))["recipe"]
    assert set(about) <= {"title", "source", "published", "cost", "command"}


def test_recipe_as_argument_or_option() -> None:
    """RECIPE and --recipe are the same; two different ones are refused, and both are named."""
    assert [the_recipe("demo", ""), the_recipe("", "demo"), the_recipe("", ""), the_recipe("a", "a")] == [
        "demo",
        "demo",
        "",
        "a",
    ]
    with pytest.raises(ValueError, match="'demo' and 'fedclip-pacs'"):
        the_recipe("demo", "fedclip-pacs")


def test_every_row_of_the_papers() -> None:
    """There is a recipe for each of pFedMoAP's nine data sets, FedCLIP's three and FedAPT's two."""
    wanted = {f"pfedmoap-{data}" for data in PFEDMOAP}
    wanted |= {f"fedclip-{data}" for data in ("pacs", "vlcs", "office-home")}
    wanted |= {f"fedapt-{data}" for data in ("domainnet", "office-caltech10")}
    assert wanted <= set(recipe_names())
    assert set(PAPERS) <= set(METHODS)


@pytest.mark.parametrize("data", PFEDMOAP)
def test_settings_of_pfedmoap(data: str) -> None:
    """The recipes of pFedMoAP have the settings of the paper's table; 16 shots where classes are disjoint."""
    config = configure(f"pfedmoap-{data}", [], {})
    clients, share, rounds, model, kind, alpha = PFEDMOAP[data]
    assert (config.partition.clients, config.federation.participation, config.rounds) == (
        clients,
        share,
        rounds,
    )
    assert (config.clip.model, config.clip.pretrained, config.partition.kind) == (model, "openai", kind)
    assert alpha is None or config.partition.alpha == alpha
    assert config.data.shots == (16 if kind == "pathological" else 0)
    assert config.flat()["pfedmoap.experts"] == (19 if data == "domainnet" else 9)


def test_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fedmoap recipes` names every recipe and its published figure."""
    out = io.StringIO()
    monkeypatch.setattr(recipe_table, "Console", lambda: Console(file=out, width=200))
    recipes()
    for name in recipe_names():
        assert name in out.getvalue()
    assert "99.06" in out.getvalue()
