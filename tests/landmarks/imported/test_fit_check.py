"""Sets of points that do not belong to their photos: every cause is named, and nothing else is.

The kind: points that were normalised, swapped, mirrored, turned, scaled, cropped, shuffled or read
in another order (`wrong_points.WRONG`), with and without a detector to compare with; and what must
not be refused: a few faces, coarse points, tilted, upside-down or tight ones.
"""

import numpy as np
import pytest
from wrong_points import WRONG

from auheat.landmarks.imported.fit_check import Sighting, find_misfit

NOBODY = Sighting(np.zeros(0, np.int64), np.zeros((0, 68, 2)))
NOT_WITHOUT_PHOTOS = {
    "photos of 256 px",  # inside its photo, a face has any size and place
    "photos half as large",
    "photos squeezed",
    "cropped photos",
    "mirrored photos",
    "lips reversed",
    "of the next photo",
    "photos thrice as large",
    "upside down",
    "EXIF orientation left out",
    "photos of 48 px",
}


@pytest.fixture
def right(random_faces):
    """Faces (40, 68, 2) about photos of many sizes, which are given as (W, H)."""
    rng = np.random.default_rng(1)
    extent = rng.integers(200, 400, (40, 2))
    places = rng.uniform(0.25, 0.75, (40, 1, 2)) * extent[:, None]
    faces = random_faces(40, 1)
    return faces - faces.mean(1, keepdims=True) + places, extent


def seen_in(points):
    """What a detector sees: the same faces, each point a little elsewhere."""
    noise = np.random.default_rng(2).normal(0, 1, points.shape)
    return Sighting(np.arange(len(points)), points + noise)


@pytest.mark.parametrize("name", WRONG)
def test_what_was_done_to_points_is_named(right, name):
    spoil, *said = WRONG[name]
    points, extent = right
    message = find_misfit(spoil(points, extent[:, None]), extent, seen_in(points))
    for text in said:
        assert text in message


@pytest.mark.parametrize("name", sorted(set(WRONG) - NOT_WITHOUT_PHOTOS))
def test_the_shape_alone_names_what_it_can(right, name):
    spoil, *said = WRONG[name]
    points, extent = right
    message = find_misfit(spoil(points, extent[:, None]), extent, NOBODY)
    if name == "x mirrored":  # the shape is that of points numbered from the other side
        said = said[:1]
    for text in said:
        assert text in message


@pytest.mark.parametrize("name", ["upside down", "EXIF orientation left out", "photos of 48 px"])
def test_many_faces_that_all_lie_oddly_are_refused_even_unseen(right, name):
    points, extent = right
    assert find_misfit(WRONG[name][0](points, extent[:, None]), extent, NOBODY)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 20, 40])
@pytest.mark.parametrize("noise", [0, 0.02, 0.04])
def test_right_points_pass_however_few_and_coarse_they_are(right, count, noise):
    points, extent = (each[:count] for each in right)
    coarse = points + np.random.default_rng(3).normal(0, 45 * noise, points.shape)
    for seen in (NOBODY, seen_in(points)):
        assert find_misfit(coarse, extent, seen) == ""


def test_one_face_upside_down_or_at_the_corner_is_no_fault(right):
    points, extent = (each[:1] for each in right)
    assert find_misfit(WRONG["upside down"][0](points, extent[:, None]), extent, NOBODY) == ""
    assert find_misfit(points / 3, extent, NOBODY) == ""


def test_a_set_that_lies_on_its_side_passes_where_a_detector_sees_it_so(right):
    points, extent = right
    turned = WRONG["EXIF orientation left out"][0](points, extent[:, None])
    assert find_misfit(turned, extent[:, ::-1], seen_in(turned)) == ""


def test_a_few_wrong_rows_do_not_condemn_a_set(right):
    points, extent = right
    mixed = points.copy()
    mixed[:15] = WRONG["(y, x)"][0](points[:15], extent[:15])
    assert find_misfit(mixed, extent, seen_in(points)) == ""
    assert find_misfit(mixed[:0], extent[:0], NOBODY) == ""


def test_other_faces_than_the_detectors_condemn_no_set_while_they_are_few(right):
    """Two people in a photo: the points are of one, and the detector sees the other."""
    points, extent = (each[:2] for each in right)
    seen = seen_in(points)
    seen.points[0] += 90
    assert find_misfit(points, extent, seen) == ""
