"""The 50 classes of the demo, the Unicode subgroups each is made of, and which emoji stand in one.

Class names are plain words because a text tower reads them ("a photo of a land vehicle."). A class is a
subgroup, or a few that look alike; pure symbols, flags and keycaps are left out, as are subgroups too vague
to name ("hotel").
"""

import hashlib
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

LARGEST = 36
SMALLEST = 8

CLASSES: dict[str, tuple[str, ...]] = {
    "aircraft": ("transport-air",),
    "angry face": ("face-negative",),
    "asian food": ("food-asian",),
    "athlete": ("person-sport",),
    "bird": ("animal-bird",),
    "boat": ("transport-water",),
    "body part": ("body-parts",),
    "book": ("book-paper",),
    "building": ("place-building", "place-religious"),
    "camera or lamp": ("light & video",),
    "cartoon monster": ("face-costume",),
    "cat face": ("cat-face",),
    "celebration": ("event",),
    "clock": ("time",),
    "clothing": ("clothing",),
    "computer or phone": ("computer", "phone"),
    "dessert": ("food-sweet",),
    "drink": ("drink",),
    "fantasy character": ("person-fantasy",),
    "flower": ("plant-flower",),
    "fruit": ("food-fruit",),
    "game or craft": ("game", "arts & crafts"),
    "hand": (
        "hand-fingers-open",
        "hand-fingers-partial",
        "hand-fingers-closed",
        "hand-single-finger",
        "hands",
        "hand-prop",
    ),
    "heart": ("heart",),
    "household item": ("household", "dishware"),
    "insect": ("animal-bug",),
    "land vehicle": ("transport-ground",),
    "landscape": ("place-geographic", "place-other"),
    "mail": ("mail",),
    "mammal": ("animal-mammal",),
    "money": ("money",),
    "musical instrument": ("musical-instrument",),
    "neutral face": ("face-neutral-skeptical", "face-hand"),
    "office supply": ("office", "writing"),
    "person": ("person",),
    "plant": ("plant-other",),
    "prepared food": ("food-prepared",),
    "reptile": ("animal-reptile", "animal-amphibian"),
    "scientific or medical instrument": ("science", "medical"),
    "sea animal": ("animal-marine",),
    "sick or tired face": ("face-unwell", "face-sleepy"),
    "smiling face": ("face-smiling", "face-affection", "face-tongue", "face-glasses", "face-hat"),
    "sound equipment": ("music", "sound"),
    "sports equipment": ("sport", "award-medal"),
    "tool": ("tool", "lock"),
    "train": (),
    "vegetable": ("food-vegetable",),
    "weather": ("sky & weather",),
    "worker": ("person-role",),
    "worried face": ("face-concerned",),
}

# The part of transport-ground that is the class "train"; what remains is "land vehicle".
RAIL = frozenset([f"1f6{last:02x}" for last in range(0x82, 0x8C)] + ["1f69d", "1f69e"])
# Twins of a neutral emoji, which would leak into the test part.
GENDERED = re.compile(r"-200d-264[02]$|^1f46[89]-200d-")


class Emoji(NamedTuple):
    """One emoji: its code points in lower-case hexadecimal, its name and its class."""

    code: str
    name: str
    label: str


def plain_code(code: str) -> str:
    """The code points joined by "-", in lower case, without the variation selector U+FE0F."""
    return re.sub(r"-fe0f\b", "", code.lower())


def class_of(code: str, subgroup: str) -> str | None:
    """The demo class of an emoji, or None where it has none."""
    if code in RAIL:
        return "train"
    return next((name for name, groups in CLASSES.items() if subgroup in groups), None)


def choose(records: Iterable[dict[str, str]], available: Collection[str]) -> list[Emoji]:
    """The emoji of the demo, sorted by class and code point: in every class 8 to 36, each name unique.

    Of a class with more than 36, those with the smallest SHA-256 of their code points stay: a draw that
    nobody can tune and that does not depend on the order of the records.

    Raises:
        ValueError: a class has fewer than 8 emoji, or two emoji have one name.
    """
    members: dict[str, list[Emoji]] = {name: [] for name in CLASSES}
    for record in records:
        code = plain_code(record["unified"])
        label = class_of(code, record["subcategory"])
        if label is not None and code in available and not GENDERED.search(code):
            name = re.sub(r"[^\w' -]", "", (record["name"] or record["short_name"]).replace("_", " ")).lower()
            members[label].append(Emoji(code, name, label))
    chosen: list[Emoji] = []
    for label, found in sorted(members.items()):
        if len(found) < SMALLEST:
            message = f"class {label!r} has {len(found)} emoji, fewer than {SMALLEST}"
            raise ValueError(message)
        drawn = sorted(found, key=lambda emoji: hashlib.sha256(emoji.code.encode()).digest())[:LARGEST]
        chosen += sorted(drawn, key=lambda emoji: emoji.code)
    names = [emoji.name for emoji in chosen]
    if len(set(names)) != len(names):
        message = f"names used twice: {sorted({name for name in names if names.count(name) > 1})}"
        raise ValueError(message)
    return chosen
