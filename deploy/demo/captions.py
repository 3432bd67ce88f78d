"""What the text tower reads while it learns: class and name captions, and the styles a caption may speak of.

A caption that names a style ("a line drawing of a bird.") is pulled towards pictures in that style, as in
CLIP, where the words around a class name matter; it is what prompt learning has to work with. Their lengths
vary so that the class name is met at every position a learned context of up to 16 tokens may push it to.
"""

from typing import NamedTuple

from torch import Tensor

from deploy.demo.pictures import Pictures


class Caption(NamedTuple):
    """A text, the class or name it speaks of, and the style it mentions ("" for none)."""

    text: str
    number: int
    style: str


NEUTRAL = (
    "a photo of a {}.",
    "a photo of a {}.",
    "a picture of a {}.",
    "an emoji of a {}.",
    "an image of the {}.",
    "an icon that shows a {}.",
    "{}.",
    "a {}.",
    "the {}.",
    "this is a {}.",
    "a small picture of a {}.",
    "a good photo of a {}.",
    "a photo of a large {}.",
    "a rendering of a {}.",
    "a picture of some kind of {}.",
    "in this small picture on white you can see a {}.",
    "here is a picture, made by an artist, of what people call a {}.",
    "one of many small pictures on a white ground that show us a {}.",
)
STYLES = {
    "outline": (
        "a line drawing of a {}.",
        "a black and white line drawing of a {}.",
        "thin black lines that show a {}.",
        "an outline of a {}, drawn with a pen.",
    ),
    "inked": (
        "a cartoon of a {}.",
        "a comic drawing of a {}, with black outlines.",
        "a colourful cartoon with thick black outlines of a {}.",
    ),
    "colour": (
        "a colour picture of a {}.",
        "a flat colourful drawing of a {}.",
        "a bright emoji in many colours without outlines of a {}.",
    ),
    "monotone": (
        "a black icon of a {}.",
        "a black and white pictogram of a {}.",
        "a high contrast symbol, all in black, of a {}.",
    ),
}
NAMED = ("a photo of a {}.", "an emoji of a {}.", "{}.", "a picture of a {}.", "an emoji that shows a {}.")


def class_captions(pictures: Pictures) -> list[Caption]:
    """Every class in every template."""
    found = [
        Caption(template.format(name), number, "")
        for number, name in enumerate(pictures.class_list)
        for template in NEUTRAL
    ]
    found += [
        Caption(template.format(name), number, style)
        for number, name in enumerate(pictures.class_list)
        for style, templates in STYLES.items()
        for template in templates
    ]
    return found


def name_captions(pictures: Pictures) -> list[Caption]:
    """Every emoji's own name in a few templates, some of them together with its class."""
    labels = pictures.label_of_name.tolist()
    found = [
        Caption(template.format(name), number, "")
        for number, name in enumerate(pictures.name_list)
        for template in NAMED
    ]
    found += [
        Caption(f"a {pictures.class_list[labels[number]]}: {name}.", number, "")
        for number, name in enumerate(pictures.name_list)
    ]
    return found


def style_of(domain: str) -> str:
    """The style in which a pretraining domain is drawn."""
    return next((style for style in ("outline", "inked", "monotone") if style in domain), "colour")


def style_rows(pictures: Pictures, style: str) -> Tensor:
    """Which pictures are in a style, [N] bool."""
    chosen = [number for number, domain in enumerate(pictures.domain_list) if style_of(domain) == style]
    rows: Tensor = sum((pictures.domains == number for number in chosen), pictures.domains < 0) > 0
    return rows
