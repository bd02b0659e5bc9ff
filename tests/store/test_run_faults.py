"""What no kill may do to runs, exports and pages. AUHEAT_FAULTS=full strikes 20 times each."""

import os

import pytest
import run_faults

FULL = os.environ.get("AUHEAT_FAULTS") == "full"
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
]


@pytest.mark.slow
@pytest.mark.parametrize("command", run_faults.COMMANDS)
def test_killed_at_any_write_a_command_given_again_ends_as_if_it_had_not_been(tmp_path, command):
    hits = run_faults.campaign_of_kills(tmp_path, command, 20 if FULL else 3)
    print(f"{command}: {sum(hits.values())} kills at {len(hits)} kinds of steps")
    assert sum(hits.values()) >= (4 if command == "report" and FULL else 3)


@pytest.mark.slow
def test_verify_finds_every_flipped_bit_in_shards_manifests_and_run_files(tmp_path):
    flips = 500 if FULL else 30
    hits = run_faults.campaign_of_flips(tmp_path, flips)
    print(f"{sum(hits.values())} of {flips} flips found: {dict(hits)}")
    assert sum(hits.values()) == flips
    assert {"N.h5", "manifest.json", "best.safetensors", "config.json", "metrics.jsonl",
            "evaluation.npz", "split.json"} <= set(hits)  # fmt: skip
