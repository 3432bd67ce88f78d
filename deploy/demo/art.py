"""Pictures of emoji in one framing: RGB, 64 by 64 pixels, on white, the drawing fitted into the inner 60.

Needs `resvg-py` (0.5.0 made the committed file) for vector art; the demo itself does not.
"""

import io
import json
import re
from typing import Any, Literal

from PIL import Image

SIDE = 64
INNER = 60
FAINT = 8  # of 255: what is more transparent is not drawn
DARK = 64  # of 255: darker fills stay black in an outline
DRAWN_AT = 192  # vector art is drawn larger and scaled down, so that cropping to the drawing costs nothing
INK = 0.028  # width of an outline, as a part of the drawing's width

Ink = Literal["", "outline", "inked"]


def framed(picture: Image.Image) -> Image.Image:
    """The picture on white, cropped to what is drawn, scaled into the inner square and centred."""
    rgba = picture.convert("RGBA")
    box = rgba.getchannel("A").point(lambda alpha: 255 if alpha > FAINT else 0).getbbox() or (
        0,
        0,
        *rgba.size,
    )
    white = Image.new("RGBA", rgba.size, "white")
    drawn = Image.alpha_composite(white, rgba).convert("RGB").crop(box)
    scale = INNER / max(drawn.size)
    size = (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale)))
    drawn = drawn.resize(size, Image.Resampling.LANCZOS)
    frame = Image.new("RGB", (SIDE, SIDE), "white")
    frame.paste(drawn, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return frame


def webp(picture: Image.Image) -> bytes:
    """The picture as WebP, always with the same settings."""
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=85, method=6)
    return file.getvalue()


def drawing(svg: str) -> Image.Image:
    """A vector drawing as pixels with transparency."""
    import resvg_py  # type: ignore[import-not-found]

    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=DRAWN_AT, height=DRAWN_AT))))


def icon_svg(icons: dict[str, Any], slug: str, ink: Ink = "") -> str:
    """One icon of an Iconify set as an SVG file, black where it leaves the colour open.

    `outline` leaves the lines of the drawing, black on white; `inked` keeps its colours and adds the lines.
    Both exist so that the small CLIP sees line drawings of its own pretraining art.
    """
    slug = icons.get("aliases", {}).get(slug, {}).get("parent", slug)
    icon = icons["icons"][slug]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    body = icon["body"]
    stroke = f'stroke="#000" stroke-width="{INK * width:.3f}" stroke-linejoin="round" stroke-linecap="round"'
    if ink == "outline":
        body = re.sub(
            r'\s(mask|filter|opacity|fill-opacity|stroke|stroke-width|stroke-opacity|style)="[^"]*"', "", body
        )
        body = re.sub(r'\sfill="([^"]*)"', lambda found: f' fill="{_black_or_white(found[1])}"', body)
        body = f'<g fill="#fff" {stroke}>{body}</g>'
    elif ink == "inked":
        body = f"<g {stroke}>{body}</g>"
    frame = f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}"'
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {links} {frame} color="#000">{body}</svg>'


def read_icons(text: bytes) -> dict[str, Any]:
    """An Iconify set: `icons` by slug, `aliases`, and the size they have where an icon states none."""
    icons: dict[str, Any] = json.loads(text)
    return icons


def _black_or_white(fill: str) -> str:
    """What an outline drawing keeps of a fill: "none" stays, very dark becomes black, the rest white."""
    if fill == "none":
        return fill
    code = re.sub(r"^#(.)(.)(.)$", r"#\1\1\2\2\3\3", fill).removeprefix("#")
    if not re.fullmatch(r"[0-9a-fA-F]{6}", code):
        return "#fff"
    red, green, blue = (int(code[at : at + 2], 16) for at in (0, 2, 4))
    return "#000" if 0.3 * red + 0.59 * green + 0.11 * blue < DARK else "#fff"
