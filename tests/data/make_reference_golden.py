"""Record what the paper authors' own code draws, for `test_reference.py` to compare with.

    git clone https://github.com/sbelharbi/interpretable-fer-aus   (seen: commit 66e2bde)
    python tests/data/make_reference_golden.py interpretable-fer-aus

Needs scikit-image for the astronaut's portrait. Only the functions that draw are taken out of the
clone and run, for the modules round them import TensorFlow and more; nothing of it is kept.

reference_golden.npz: `points` (F, 68, 2) f32 px, `size` (F, 2) as (H, W), `expression` (E,), and
`map_FACE_EXPRESSION` (F x E), each every STEP-th pixel of their normalised map, f32.
"""

import ast
import runpy
import sys
import typing
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

STEP = 7  # no divisor of the 28 x 28 grid's 8 px at 224: all positions in a cell are met
EXPRESSIONS = ("Happiness", "Surprise", "Fear", "Anger", "Disgust", "Sadness")
FACES = (
    # (H, W), middle of the face as a share of the photo, its share of the width, roll
    ((100, 100), (0.5, 0.5), 1.0, 0),
    ((224, 224), (0.5, 0.5), 1.0, 0),
    ((300, 300), (0.5, 0.5), 1.0, 0),
    ((224, 224), (0.5, 0.5), 1.0, -12),
    ((224, 224), (0.5, 0.5), 1.0, 12),
    ((180, 256), (0.0, 0.4), 0.8, 5),
)


def find_face():
    """Return the portrait's 68 points, its face's middle at 0 and the width of its crop 1."""
    from auheat.demo import load_portrait

    return (load_portrait()[1] - [220, 120]) / 220


def place_face(unit, size, middle, share, roll):
    """Return points (68, 2) f32 px of the face in a photo of a size."""
    turn = np.deg2rad(roll)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned = share * size[1] * unit @ rotation.T
    return (turned + np.array(middle) * size[::-1]).astype(np.float32)


def load_parts(file, names, constants):
    """Run the named functions and tables of a file, and nothing else of it."""
    wanted = [
        node
        for node in ast.parse(file.read_text()).body
        if getattr(node, "name", None) in names
        or (isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in names)
    ]
    space = {"np": np, "cv2": cv2, "constants": constants, **vars(typing)}
    exec(compile(ast.Module(wanted, []), str(file), "exec"), space)
    return space


def main(clone):
    constants = SimpleNamespace(**runpy.run_path(str(clone / "dlib/configure/constants.py")))
    drawing = load_parts(
        clone / "dlib/face_landmarks/action_units.py",
        ("AU", "EXP2AU", "GENERIC_AUS", "plot_action_units_ellipsoid", "build_all_action_units"),
        constants,
    )
    loader = load_parts(clone / "dlib/datasets/wsol_loader.py", ("_preprape_au_hmap",), constants)
    unit = find_face()
    points = np.stack([place_face(unit, *face) for face in FACES])
    size = np.array([face[0] for face in FACES])
    out = {"points": points, "size": size, "expression": np.array(EXPRESSIONS)}
    for face, (height, width) in enumerate(size.tolist()):
        for name in EXPRESSIONS:
            maps = drawing["build_all_action_units"](
                lndmks=points[face].tolist(),
                h=height,
                w=width,
                cl=getattr(constants, name.upper()),
                aus_type=constants.HEATMAP_AUNITS_LNMKS,
            )
            whole = loader["_preprape_au_hmap"](maps.max(axis=0, initial=-1), True)
            out[f"map_{face}_{name}"] = whole[::STEP, ::STEP]
    np.savez_compressed(Path(__file__).with_name("reference_golden.npz"), **out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
