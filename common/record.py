"""What a run leaves behind: `record.json`, raw counts only. Everything else is computed from it by the report."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.atomic import replacing
from common.config import Scalar

Phase = Literal["train", "evaluate"]
Question = Literal["personal", "global", "newcomer"]
Role = Literal["trains", "newcomer", "unseen"]
SCHEMA_VERSION: Literal[1] = 1
FILE_NAME = "record.json"


class Entry(BaseModel):
    """A closed part of the record."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Trained(Entry):
    """One client's local training in one round."""

    client: str
    examples: int
    parameters: Annotated[int, Field(description="numbers that were trained, personal ones included")]
    loss: Annotated[float, Field(description="mean over the last local epoch")]
    seconds: float
    bytes_down: int
    bytes_up: int
    drew_on: tuple[str, ...] = ()


class Evaluated(Entry):
    """One model on one client's test part.

    `personal`: the client's own; `global`: the server's alone; `newcomer`: what one local round of training makes of
    what a client that never trained receives.
    """

    client: str
    correct: int
    total: int
    loss: Annotated[float, Field(description="summed over the test images")]
    seconds: float
    bytes_down: int
    question: Question = "personal"
    validation_correct: int = 0
    validation_total: Annotated[int, Field(description="images kept out of training to choose a round by")] = 0


class Failure(Entry):
    """A client that was asked and did not answer as it should."""

    client: str
    phase: Phase
    reason: str


class Round(Entry):
    """One completed round; `attempts` counts those that had too few answers."""

    number: int
    seconds: float
    attempts: int
    trained: tuple[Trained, ...] = ()
    evaluated: tuple[Evaluated, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def accuracy(self) -> float | None:
        """Mean over clients of the percentage that their own model has right; None where none was evaluated."""
        shares = [100 * entry.correct / entry.total for entry in self.evaluated if entry.question == "personal"]
        return sum(shares) / len(shares) if shares else None


class Client(Entry):
    """What a client holds, images per class in the order of `class_names`, and what its part in the run is."""

    name: str
    role: Role = "trains"
    domain: str | None
    train: tuple[int, ...]
    test: tuple[int, ...]
    validation: tuple[int, ...] = ()


class Provenance(Entry):
    """From which code, on which machine."""

    commit: str | None
    dirty: bool | None
    versions: dict[str, str]
    device: str
    started: str


class Record(BaseModel):
    """A run, from its configuration to its last completed round."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    schema_version: Literal[1] = SCHEMA_VERSION
    run: str
    method: str
    seed: int
    planned_rounds: int
    config: dict[str, Scalar]
    provenance: Provenance
    data: str
    split: str
    notes: tuple[str, ...]
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    data_fingerprint: str
    partition_digest: str
    clip_fingerprint: str
    clip_parameters: int
    clients: tuple[Client, ...]
    rounds: list[Round] = []
    finished: bool = False

    def save(self, folder: Path) -> None:
        """Writes `record.json` into the folder, whole or not at all."""
        with replacing(folder / FILE_NAME) as beside:
            beside.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Record":
        """The record in a run's folder.

        Raises:
            ValueError: there is none, or it is not one of ours; one line that names the file.
        """
        path = folder / FILE_NAME if folder.is_dir() else folder
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{folder}: no {FILE_NAME} there, so it is no run") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not a run record (it is no text)") from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{path}: not a run record ({place}: {first['msg']})") from None
