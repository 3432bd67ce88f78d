"""A Parquet file of `image, label, domain, name` as tensors."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Pictures:
    """Pictures [N, 3, H, W] as bytes; class, domain and name of each as positions in the lists."""

    images: Tensor
    labels: Tensor
    domains: Tensor
    names: Tensor
    class_list: list[str]
    domain_list: list[str]
    name_list: list[str]

    @property
    def label_of_name(self) -> Tensor:
        """The class of each name, [names]."""
        label = torch.zeros(len(self.name_list), dtype=torch.long)
        label[self.names] = self.labels
        return label


def read(path: Path) -> Pictures:
    """All pictures of a file that `deploy.demo.build_data` wrote."""
    table = pq.read_table(path)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    files = [row["bytes"] for row in table["image"].to_pylist()]
    images = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    names = table["name"].to_pylist()
    name_list = sorted(set(names))
    position = {name: number for number, name in enumerate(name_list)}
    return Pictures(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor(table["label"].to_pylist()),
        domains=torch.tensor(table["domain"].to_pylist()),
        names=torch.tensor([position[name] for name in names]),
        class_list=features["label"]["names"],
        domain_list=features["domain"]["names"],
        name_list=name_list,
    )
