"""What a real site says of itself: the one schema between `flower-client` and the ClientApp that it starts."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from common.config import Flat, NonEmpty, Section, nearest

SITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""What may be a site's name: it stands in file names and messages."""


def _printable(domain: str) -> str:
    if not domain.isprintable():
        raise ValueError("must be printable")
    return domain


Domain = Annotated[str, Field(max_length=64), AfterValidator(_printable)]
"""What may be a domain's name: it stands in tables and on terminals elsewhere."""


class SiteOptions(Section):
    """A site's own images, state and CLIP; none of it is the server's to decide, and only `name` is sent."""

    name: Annotated[str, Field(pattern=SITE_NAME)] = Field(
        description="the site's own name: letters, digits, '.', '_' and '-'"
    )
    data: NonEmpty = Field(description="a folder per class, a parquet or Arrow file, or hf:NAME")
    state: NonEmpty = Field(description="folder for private tensors and encoded features")
    domain: Domain = Field("", description="the domain that all of the images are of")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    test_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.3, description="share held out for testing where there is no test part"
    )
    model: str = Field("demo", description="the CLIP: demo, an open_clip architecture, local-dir:PATH or hf-hub:NAME")
    pretrained: str = Field("", description="open_clip weights tag or checkpoint file")

    @property
    def cache(self) -> str:
        """Where features and the text tower are kept."""
        return str(Path(self.state) / "cache")


def parse_site(flat: Flat) -> SiteOptions:
    """The options that a site's configuration states.

    Raises:
        ValueError: one line that names each offending option and what is allowed.
    """
    known = [str(info.alias) for info in SiteOptions.model_fields.values()]
    if unknown := [key for key in flat if key not in known]:
        raise ValueError(f"unknown option {unknown[0]!r}{nearest(unknown[0], known)}")
    try:
        return SiteOptions.model_validate(dict(flat))
    except ValidationError as error:
        raise ValueError(
            "; ".join(
                f"--{'.'.join(str(part) for part in item['loc'])}: {_given(item['input'])}{item['msg']}"
                for item in error.errors(include_url=False)
            )
        ) from None


def _given(value: object) -> str:
    return "" if isinstance(value, dict) else f"{value!r}: "
