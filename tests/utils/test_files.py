"""Files of JSON: whatever is written, any strict reader of JSON takes."""

import json
import math

import numpy as np
import pytest

from auheat.cli.common import print_json
from auheat.runs.checkpoint import encode_curve, save_tensors
from auheat.runs.run_folder import read_metadata
from auheat.shards.manifest import encode_manifest, read_manifest, write_manifest
from auheat.utils.files import dump_json, encode_json, write_json

NOT_NUMBERS = (math.nan, math.inf, -math.inf, np.float64("nan"))


def strict(text):
    """Read JSON as its standard has it (RFC 8259: no NaN, no Infinity)."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_what_is_no_finite_number_is_null_wherever_it_stands(tmp_path, value):
    given = {"a": value, "b": [1.5, (value, "NaN")], "c": {"d": {"e": value}}, "f": 0.0}
    expected = {"a": None, "b": [1.5, [None, "NaN"]], "c": {"d": {"e": None}}, "f": 0.0}
    assert strict(dump_json(given)) == expected
    assert strict(encode_json(given)) == expected
    write_json(tmp_path / "a.json", given)
    assert strict((tmp_path / "a.json").read_text()) == expected


def test_other_values_are_written_as_ever():
    given = {"b": 1, "a": [0.1, -0.0, 1e300, True, None, "é", math.pi]}
    assert encode_json(given) == (json.dumps(given, indent=1, sort_keys=True) + "\n").encode()


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_every_writer_of_a_run_or_a_store_writes_json(tmp_path, capsys, value):
    print_json({"att_cos": value})
    assert strict(capsys.readouterr().out) == {"att_cos": None}
    assert strict(encode_curve([{"val_loss": value}])) == {"val_loss": None}
    save_tensors(tmp_path / "a.safetensors", {}, best={"val_loss": value})
    assert read_metadata(tmp_path / "a.safetensors") == {"best": {"val_loss": None}}
    fingerprint = {"photos": 0, "threshold": value}
    strict(encode_manifest(fingerprint, []))
    write_manifest(tmp_path, fingerprint, [])
    assert read_manifest(tmp_path).fingerprint["threshold"] is None


def test_no_other_place_writes_json_of_its_own():
    """`json.dumps` is left where its text is compared or hashed, and not written."""
    from pathlib import Path

    import auheat

    root = Path(auheat.__file__).parent
    calls = {
        (file.relative_to(root).as_posix(), line.strip())
        for file in root.rglob("*.py")
        for line in file.read_text().splitlines()
        if "json.dump(" in line or "json.dumps(" in line
    }
    written = {
        (file, line)
        for file, line in calls
        if "digest" not in line and "sha256" not in line and "json.loads(json.dumps" not in line
    }
    assert {file for file, _ in written} <= {
        "utils/files.py",
        *("reporting/tables.py", "reporting/run_groups.py"),  # keys of a comparison
        *("store/shard_set.py", "facs/yaml_reading.py"),  # texts of which a digest is made
    }
