import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from common.data import load_site, load_task
from common.partition import partition
from deploy.data_command import data
from deploy.shares import write_shares


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two domains of two classes, one of which is called like a part."""
    folder = tmp_path_factory.mktemp("pictures")
    for domain in ("Line Art", "photo"):
        for label, name in enumerate(("bus", "train")):
            for number in range(10):
                path = folder / domain / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4), (label, number, len(domain))).save(path)
    return folder


def test_a_share_is_a_site_s(pictures: Path, tmp_path: Path) -> None:
    """What a site reads from its share is what the partition gave it: images, classes, train and test part."""
    task = load_task(str(pictures))
    assignment = partition(task, "domain", 2)
    written = write_shares(task, assignment, tmp_path / "shares")
    assert [path.name for path in written] == list(assignment.names) == ["line-art", "photo"]
    for path, part in zip(written, assignment.parts, strict=True):
        site = load_site(str(path), task.class_names)
        of_task = {
            (bytes_of(task.data[row]["image"]), task.data[row]["label"], bool(task.test[row])) for row in rows(part)
        }
        of_site = {
            (bytes_of(item["image"]), item["label"], bool(test))
            for item, test in zip(site.data, site.test, strict=True)
        }
        assert of_site == of_task
        assert len(site.data) == len(of_task) == 20


def rows(part: object) -> list[int]:
    return [*part.train.tolist(), *part.test.tolist()]


def bytes_of(image: Image.Image) -> bytes:
    return image.convert("RGB").tobytes()


def test_one_client_s_share(pictures: Path, tmp_path: Path) -> None:
    """The command writes one client's share and nobody else's; over one that is there, or of nobody, it does not."""
    app = typer.Typer()
    app.command()(data)
    options = [str(pictures), "--partition", "domain", "--clients", "2", "--write", str(tmp_path / "shares")]

    def asked(client: str) -> str:
        result = CliRunner().invoke(app, [*options, "--client", client], env={"HOME": str(tmp_path)})
        return str(result.exception) if result.exception else result.output

    assert f"written: {tmp_path / 'shares' / 'photo'}" in re.sub(r"\n(?=\S)", "", asked("photo"))
    assert [path.name for path in (tmp_path / "shares").iterdir()] == ["photo"]
    assert "is there already" in asked("photo")
    assert "is there already" in str(CliRunner().invoke(app, options).exception)
    assert [path.name for path in (tmp_path / "shares").iterdir()] == ["photo"]
    assert "'photos': clients are line-art, photo, did you mean 'photo'?" in asked("photos")


def test_a_class_that_no_folder_can_be_called(pictures: Path, tmp_path: Path) -> None:
    """A class whose name would lead out of the folder is refused before anything is written."""
    task = load_task(str(pictures))
    named = type(task)(**(vars(task) | {"class_names": ("bus", "../train")}))
    with pytest.raises(ValueError, match=r"class '../train' cannot be the name of a folder"):
        write_shares(named, partition(task, "iid", 2), tmp_path / "shares")
    assert not (tmp_path / "shares").exists()
