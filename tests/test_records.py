"""The constants that everything else leans on."""

import numpy as np

from auheat.expressions import EXPRESSIONS, SYNONYMS
from auheat.records import MIRROR, Status


def test_mirror_is_its_own_inverse_and_swaps_known_partners():
    assert (MIRROR[MIRROR] == np.arange(68)).all()
    pairs = {0: 16, 17: 26, 21: 22, 31: 35, 36: 45, 39: 42, 37: 44, 41: 46, 48: 54, 59: 55, 60: 64}
    pairs |= {61: 63, 67: 65, 8: 8, 27: 27, 30: 30, 33: 33, 51: 51, 57: 57, 62: 62, 66: 66}
    for point, partner in pairs.items():
        assert MIRROR[point] == partner


def test_mirrored_mean_face_is_the_mean_face(martinez):
    mean = martinez.frame.mean
    np.testing.assert_allclose(mean[MIRROR] * [-1, 1], mean, atol=1e-12)


def test_mean_face_has_unit_eye_distance_about_the_origin(martinez):
    mean = martinez.frame.mean
    np.testing.assert_allclose(mean[36], [-0.5, 0], atol=1e-9)
    np.testing.assert_allclose(mean[45], [0.5, 0], atol=1e-9)
    assert mean[8, 1] > mean[57, 1] > mean[51, 1] > mean[33, 1] > mean[27, 1] > mean[19, 1]


def test_synonyms_lead_to_canonical_names():
    assert set(SYNONYMS.values()) == set(EXPRESSIONS)
    assert all(key == key.casefold() for key in SYNONYMS)


def test_status_codes_are_those_of_the_format():
    assert [(s.name, int(s)) for s in Status] == [
        ("OK", 0),
        ("MANY_FACES", 1),
        ("LOW_CONFIDENCE", 2),
        ("NO_FACE", 3),
        ("UNREADABLE", 4),
    ]
