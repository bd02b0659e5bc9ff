"""Every snippet of docs/reading.md is a whole program, and delivers what the shards hold."""

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render

TEXT = (Path(__file__).parents[2] / "docs" / "reading.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

CHECKS = {
    "h5py": """
        assert len(train) == 7  # of eight, one is Neutral
        assert images.shape[1:] == (3, 224, 224) and 0 <= images.min() <= images.max() <= 1
        assert heatmaps.shape[1:] == (56, 56) and heatmaps.amax((1, 2)).min() > 0.9
        from auheat import ShardDataset
        ours = ShardDataset("auheat-data/shards/martinez", "train")
        rows = [item for item in (ours[i] for i in range(len(ours))) if item["valid"]]
        assert len(rows) == 7
        for (image, heatmap, label), item in zip((train[i] for i in range(7)), rows):
            assert torch.equal(image, item["image"] / 255)
            assert torch.equal(heatmap, item["heatmap"] / 255)
            assert label == item["label"]
    """,
    "ShardDataset": """
        assert len(train) == 8
        assert images.shape[1:] == (3, 224, 224) and heatmaps.shape[1:] == (56, 56)
        assert landmarks.shape[1:] == (68, 2) and len(labels) == len(valid)
    """,
    "ShardStream": """
        again = StreamLoader(stream)
        again.load_state_dict(json.loads(kept.read_text()))
        assert (again.stream.epoch, list(again)) == (2, [])
        assert sorted(i for batch in again for i in batch["index"].tolist()) == list(range(8))
    """,
    "lightning": """
        import torch, warnings
        warnings.simplefilter("ignore")  # Lightning's advice on speed

        class Mean(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.factor = torch.nn.Parameter(torch.ones(()))

            def training_step(self, batch, number):
                assert batch["image"].shape[1:] == (3, 224, 224)
                return self.factor * (batch["image"] / 255).mean()

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.1)

        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        model, faces = Mean(), Faces("auheat-data/shards/martinez", workers=0)
        trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet)
        trainer.fit(model, datamodule=faces)
        assert trainer.global_step == 2 and model.factor < 1
    """,
    "tensorflow": """
        rows = list(read_rows())
        assert len(rows) == 10 == sum(len(batch[0]) for batch in data.batch(4))
        assert images.shape[1:] == (224, 224, 3) and heatmaps.shape[1:] == (56, 56)
        assert 0.9 < tf.reduce_max(heatmaps) <= 1
    """,
    "datasets": """
        assert len(faces) == 12 and sum(faces["valid"]) == 10
        import numpy
        from auheat import read_columns
        parts = [read_columns(Path(file), ["id", "label", "heatmap"]) for file in files]
        stored = {n: [v for part in parts for v in part[n]] for n in parts[0]}
        for row, key, label in zip(faces, stored["id"], stored["label"]):
            assert (row["id"], row["label"], row["image"].size) == (key, label, (40, 40))
        for row, heatmap in zip(faces, stored["heatmap"]):
            assert numpy.array_equal(row["heatmap"], heatmap)
    """,
}


def find(kind: str) -> str:
    """The snippet that a check belongs to."""
    return SNIPPETS[list(CHECKS).index(kind)]


def test_every_snippet_has_a_check():
    assert len(SNIPPETS) == len(CHECKS)
    for kind in CHECKS:
        assert kind in find(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHECKS)
def test_the_snippet_runs_and_delivers_the_rows(kind, rafdb, tmp_path, stub_detector):
    if kind in ("lightning", "tensorflow", "datasets") and not importlib.util.find_spec(kind):
        pytest.skip(f"{kind} is not installed (it is no part of auheat)")
    extract(rafdb, tmp_path / "auheat-data", shard_size=8)
    render(tmp_path / "auheat-data")
    check = textwrap.indent(textwrap.dedent(CHECKS[kind]), "    ")
    script = tmp_path / "snippet.py"
    script.write_text(f"{find(kind)}\n{check}")
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    environment = os.environ | quiet | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, script.name], cwd=tmp_path, check=True, env=environment)


def test_the_dataset_with_h5py_alone_stays_short():
    body = find("h5py").partition("class Shards")[2].partition("if __name__")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 18
