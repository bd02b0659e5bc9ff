"""What explain says of image and points, by hand-written numbers."""

import numpy as np
import pytest

from auheat.explanation.geometry import describe_geometry


def test_evidence_adds_up_by_groups_and_each_unit_has_that_of_its_anchors(martinez):
    rng = np.random.default_rng(0)
    evidence = rng.normal(size=(69, 3))
    evidence[1:18] = 0  # the jaw
    found = describe_geometry(evidence, 1, ("a", "b", "c"), (12, 4), martinez)
    said = evidence[:, 1] - (evidence[:, 0] + evidence[:, 2]) / 2
    assert found.image == pytest.approx(said[0])
    assert found.points == pytest.approx(said[1:].sum()) == sum(found.groups.values())
    assert found.groups["mouth"] == pytest.approx(said[1 + 48 :].sum())
    assert found.groups["brows"] == pytest.approx(said[1 + 17 : 1 + 27].sum())
    assert found.share == pytest.approx(abs(said[1:].sum()) / (abs(said[0]) + abs(said[1:].sum())))
    assert list(found.units) == ["AU12", "AU4"]
    anchors = {i for blob in martinez.regions[12].blobs for i in blob.anchor}
    assert found.units["AU12"] == pytest.approx(sum(said[1 + i] for i in anchors))
    assert found.image_logits == dict(zip("abc", evidence[0], strict=True))
    assert found.point_logits["c"] == pytest.approx(evidence[1:, 2].sum())
