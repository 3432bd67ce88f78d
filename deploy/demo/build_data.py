r"""Makes emoji.parquet: 50 classes of emoji as four artists' styles drew them, 64 pixels on white.

The rows are `image` (WebP), `label`, `domain` and `name`; an emoji has one row in every domain. From these
npm packages, whose SHA-256 sums are checked (run this in the folder given as --packages):

    npm pack emoji-datasource@16.0.0 openmoji@17.0.0 @lobehub/fluent-emoji-3d@1.1.0 \
        @iconify-json/fluent-emoji-high-contrast@1.2.6 @iconify-json/fluent-emoji-flat@1.2.6 \
        @iconify-json/noto@1.2.9 @iconify-json/twemoji@1.2.5 @iconify-json/noto-v1@1.2.5 \
        @iconify-json/emojione@1.2.3 @iconify-json/emojione-monotone@1.2.1

    pip install resvg-py==0.5.0
    python -m deploy.demo.build_data --packages DIR --pretraining build/demo/pretraining.parquet

The same packages and library versions (pillow, pyarrow, datasets, resvg-py) give the same bytes. With
--pretraining it also makes the file that `deploy.demo.pretrain` reads: other artists' drawings of the same
emoji, and line drawings derived from those. It holds no picture of the four federated domains, and it is not
shipped.
"""

import argparse
import hashlib
import io
import json
import logging
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from rich.progress import track

from deploy.demo.art import Ink, drawing, framed, icon_svg, read_icons, webp
from deploy.demo.classes import Emoji, choose, plain_code

logger = logging.getLogger(__name__)

Draw = Callable[[str], Image.Image]  # from code points to a picture

PACKAGES = {
    "emoji-datasource-16.0.0.tgz": "2006725061dc0098daa832d65f854a7bec0740af2eb47cb5b23d89f7e2c849f9",
    "openmoji-17.0.0.tgz": "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
    "lobehub-fluent-emoji-3d-1.1.0.tgz": "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    "iconify-json-fluent-emoji-high-contrast-1.2.6.tgz": (
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0"
    ),
    "iconify-json-fluent-emoji-flat-1.2.6.tgz": ("7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
    "iconify-json-noto-1.2.9.tgz": "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "iconify-json-twemoji-1.2.5.tgz": "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    "iconify-json-noto-v1-1.2.5.tgz": "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    "iconify-json-emojione-1.2.3.tgz": "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    "iconify-json-emojione-monotone-1.2.1.tgz": ("40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e"),
}
ICON_SETS = {  # pretraining domains and the packages they come from; those with chars.json first
    "noto": "noto-1.2.9",
    "twemoji": "twemoji-1.2.5",
    "fluent flat": "fluent-emoji-flat-1.2.6",
    "noto blob": "noto-v1-1.2.5",
    "emojione": "emojione-1.2.3",
    "emojione monotone": "emojione-monotone-1.2.1",
}
INKS: tuple[Ink, ...] = ("", "outline", "inked")


def package(folder: Path, name: str) -> dict[str, bytes]:
    """The files of one npm package, by path below its `package/` folder, without large sheets.

    Raises:
        ValueError: the archive is not the pinned one.
    """
    path = folder / name
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != PACKAGES[name]:
        message = f"{path} has SHA-256 {found}, not {PACKAGES[name]}: is it the version this script names?"
        raise ValueError(message)
    with tarfile.open(path) as archive:
        wanted = [member for member in archive if member.isfile() and "/img/" not in member.name]
        files = {member.name.partition("/")[2]: archive.extractfile(member) for member in wanted}
        return {name: file.read() for name, file in files.items() if file is not None}


def federated_art(folder: Path) -> dict[str, tuple[set[str], Draw]]:
    """For each federated domain the code points it has and how to draw one."""
    openmoji = package(folder, "openmoji-17.0.0.tgz")
    fluent = package(folder, "lobehub-fluent-emoji-3d-1.1.0.tgz")

    def files(contents: dict[str, bytes], under: str) -> dict[str, bytes]:
        inside = {path: data for path, data in contents.items() if path.startswith(under)}
        return {plain_code(Path(path).stem): data for path, data in sorted(inside.items())}

    colour, black = files(openmoji, "color/svg/"), files(openmoji, "black/svg/")
    solid = files(fluent, "assets/")
    return {
        "openmoji": (set(colour), lambda code: drawing(colour[code].decode())),
        "line art": (set(black), lambda code: drawing(black[code].decode())),
        "fluent 3d": (set(solid), lambda code: Image.open(io.BytesIO(solid[code]))),
        "high contrast": icon_art(folder, "fluent-emoji-high-contrast-1.2.6", {}),
    }


def icon_art(folder: Path, name: str, slugs: dict[str, str], ink: Ink = "") -> tuple[set[str], Draw]:
    """The code points an Iconify set has and how to draw one; `slugs` for sets that only know names."""
    files = package(folder, f"iconify-json-{name}.tgz")
    icons = read_icons(files["icons.json"])
    chars = json.loads(files["chars.json"])  # empty in the older sets
    if chars:
        slugs = {plain_code(code): slug for code, slug in chars.items()}
    else:
        slugs = {code: slug for code, slug in slugs.items() if slug in icons["icons"]}
    return set(slugs), lambda code: drawing(icon_svg(icons, slugs[code], ink))


def pretraining_art(folder: Path) -> dict[str, tuple[set[str], Draw]]:
    """For each pretraining domain and each redrawing of one, the code points and how to draw one."""
    files = package(folder, "iconify-json-noto-1.2.9.tgz")
    slugs = {plain_code(code): slug for code, slug in sorted(json.loads(files["chars.json"]).items(), reverse=True)}
    return {
        f"{domain} {ink}".strip(): icon_art(folder, name, slugs, ink)
        for domain, name in ICON_SETS.items()
        for ink in INKS
        if not (ink and domain == "emojione monotone")  # is a line drawing already
    }


def rows(art: dict[str, tuple[set[str], Draw]], emoji: list[Emoji], classes: list[str]) -> Iterator[dict[str, object]]:
    """One row for each emoji that a domain has: domain after domain, in each by class and code points."""
    for number, (domain, (codes, draw)) in enumerate(art.items()):
        for one in track(emoji, domain):
            if one.code in codes:
                image = {"bytes": webp(framed(draw(one.code))), "path": f"{one.code}.webp"}
                yield {"image": image, "label": classes.index(one.label), "domain": number, "name": one.name}


def write(path: Path, art: dict[str, tuple[set[str], Draw]], emoji: list[Emoji]) -> None:
    """Write one Parquet file, beside its place first and renamed when it is whole."""
    classes = sorted({one.label for one in emoji})
    features = Features(
        image=ImageFeature(),
        label=ClassLabel(names=classes),
        domain=ClassLabel(names=list(art)),
        name=Value("string"),
    )
    table = pa.Table.from_pylist(list(rows(art, emoji, classes)), schema=features.arrow_schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.part")
    pq.write_table(table, beside, compression="zstd", row_group_size=1000)
    os.replace(beside, path)  # noqa: PTH105 - replaces on every system
    logger.info("%s: %d rows, %d classes, %d bytes", path, table.num_rows, len(classes), path.stat().st_size)


def main() -> None:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder with the npm archives")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("emoji.parquet"), help="file to write")
    parser.add_argument("--pretraining", type=Path, help="also write the pretraining domains to this file")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    federated = federated_art(options.packages)
    others = pretraining_art(options.packages)
    main_sets = [codes for codes, _ in federated.values()]
    main_sets += [codes for domain, (codes, _) in others.items() if domain in ("noto", "twemoji", "fluent flat")]
    records = json.loads(package(options.packages, "emoji-datasource-16.0.0.tgz")["emoji.json"])
    emoji = choose(records, set.intersection(*main_sets))
    write(options.out, federated, emoji)
    if options.pretraining:
        write(options.pretraining, others, emoji)


if __name__ == "__main__":
    main()
