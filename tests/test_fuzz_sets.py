"""Labels, points, maps and codebooks, changed at random with fixed seeds: read, or refused.

`make fuzz` does the same with new seeds for as long as one likes.
"""

import pytest
from fuzz_targets import TARGETS
from fuzzing import Step, make_case, plan_case, run_tool

SETS = {
    name: 10 if name.startswith(("points", "aus", "maps")) else 20
    for name in list(TARGETS)[: list(TARGETS).index("shards")]
}


@pytest.mark.slow
def test_changed_files_of_other_tools_are_read_or_refused_in_one_line(tmp_path):
    assert not any(run_tool(tmp_path, SETS).values())


@pytest.mark.parametrize("name", ["rafdb", "codebook"])
def test_a_seed_always_gives_the_same_case(tmp_path, name):
    sample = tmp_path / "sample"
    TARGETS[name].make(sample)
    sound = {f: f.read_bytes() for f in sample.rglob("*") if f.is_file()}
    kinds = set()
    for seed in range(30):
        cases = [plan_case(name, seed, sample) for _ in range(2)]
        assert cases[0] == cases[1]
        kinds |= {step.change for step in cases[0].steps}
        for i in range(2):
            make_case(cases[i], sample, tmp_path / f"{seed}-{i}")
        made = [
            {f.relative_to(home): f.read_bytes() for f in home.rglob("*") if f.is_file()}
            for home in (tmp_path / f"{seed}-0", tmp_path / f"{seed}-1")
        ]
        assert made[0] == made[1]
    assert len(kinds) > 8
    assert sound == {f: f.read_bytes() for f in sample.rglob("*") if f.is_file()}


def test_steps_that_no_longer_fit_a_file_change_it_all_the_same(tmp_path):
    sample = tmp_path / "sample"
    TARGETS["codebook"].make(sample)
    case = plan_case("codebook", 0, sample)
    steps = (Step("other.yaml", "empty", 1), Step("other.yaml", "change_h5", 2))
    make_case(type(case)("codebook", 0, steps), sample, tmp_path / "case")
    assert (tmp_path / "case" / "other.yaml").read_bytes() not in (
        b"",
        (sample / "other.yaml").read_bytes(),
    )
