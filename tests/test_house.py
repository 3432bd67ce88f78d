"""The house's own rules, so that they hold without anybody remembering them."""

import ast
import tomllib
from pathlib import Path

import pytest

import common

ROOT = Path(common.__file__).parent.parent
FOLDERS = ("common", "server", "client", "deploy")
FILES = sorted(path for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py"))
MAY_IMPORT = {
    "common": {"common"},
    "server": {"server", "common"},
    "client": {"client", "common"},
    "deploy": {"deploy", "common"},
}
ONLY_IN = {
    "open_clip": {"common/openclip.py", "common/pretrained.py"},
    "matplotlib": {"deploy/figures.py"},
    "timm": set(),
}
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("tests/")])
def test_imports_point_inwards(name: str) -> None:
    """server -> common <- client, deploy -> common; server, client and deploy never import each other."""
    tops = {module.split(".")[0] for module in imports(ROOT / name)}
    assert tops & set(FOLDERS) <= MAY_IMPORT[name.split("/", maxsplit=1)[0]]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(FOLDERS) and "/demo/" not in name])
def test_heavy_libraries_have_one_door(name: str) -> None:
    """open_clip is imported where models are wrapped and where they are made, matplotlib where figures are drawn."""
    tops = {module.split(".")[0] for module in imports(ROOT / name)}
    for library, doors in ONLY_IN.items():
        assert library not in tops or name in doors


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("common/")])
def test_common_knows_no_method(name: str) -> None:
    """Methods stand on the rest of common; nothing there stands on a method but their registry."""
    if name != "common/methods/__init__.py":
        others = {module for module in imports(ROOT / name) if module.startswith("common.methods")}
        allowed = {"common.methods.zeroshot"} if name.startswith("common/methods/") else set()
        assert others <= allowed


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n.startswith(("common/", "client/")) and "flwr" in (ROOT / n).read_text()]
)
def test_methods_never_see_flower(name: str) -> None:
    """Flower is imported in wire, server, client and the commands alone."""
    if any(module.split(".")[0] == "flwr" for module in imports(ROOT / name)):
        assert name == "common/wire.py" or name.startswith("client/")


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("tests/")])
def test_files_stay_small(name: str) -> None:
    """A file of the product that passes 300 lines asks for a better cut."""
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 300


def test_one_version() -> None:
    """The version that clients and server compare is the distribution's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert common.__version__ == project["version"]
