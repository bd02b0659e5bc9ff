"""docs/models.md: its programs run as they stand there."""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from run_helpers import Finder, make_run

from auheat.deployment.exporter import ENDINGS, export_model

TEXT = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
FIRST, ONNX, *_ = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_is_loaded_and_asked_about_a_photo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("auheat.explanation.inputs.load_detector", lambda *_: Finder())
    make_run(tmp_path / "auheat-data" / "runs" / "with-aus")
    Image.new("RGB", (80, 90), "gray").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUHEAT_STORE", raising=False)
    values: dict = {}
    exec(FIRST, values)
    assert capsys.readouterr().out.strip() in ("Happiness", "Surprise", "Anger")
    assert values["maps"].cams.shape == (1, 3, 16, 16)


@pytest.mark.timm
def test_an_onnx_file_is_read_by_onnxruntime_alone(tmp_path, monkeypatch, capsys):
    if not all(map(find_spec, ("onnx", "onnxruntime", "onnxscript"))):
        pytest.skip("needs onnx, onnxruntime and onnxscript (the extra auheat[onnx])")
    made = export_model(make_run(tmp_path / "with-aus"))["out"]
    shutil.copy(made, tmp_path / "with-aus.onnx")
    monkeypatch.chdir(tmp_path)
    exec(ONNX, {})
    assert capsys.readouterr().out.strip().endswith("(4, 16, 16) (4, 3, 16, 16)")


def test_every_format_is_explained():
    assert re.findall(r"^\| `(\w+)` \| ", TEXT, re.MULTILINE) == list(ENDINGS)
