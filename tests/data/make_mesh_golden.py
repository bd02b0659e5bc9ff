"""Record what mediapipe 0.10.21 finds on views of the astronaut portrait, and on other photos.

Run in an environment of its own (its pins clash with ours):
`pip install mediapipe==0.10.21 scikit-image`, then
`python tests/data/make_mesh_golden.py [FOLDER]`.

mesh_golden.npz: `matrix` (K, 2, 3) f64 maps pixels (x, y, 1) of a view to pixels of the portrait,
`size` (K, 2) is a view's (H, W), `points` (K, 478, 2) f32 are pixels (x, y) of the view.

mesh_golden_photos.npz: `name` (K,) of the photos in FOLDER on which a face was found, and its
`points`; the photos are not part of the project, and the test that needs them skips without.
"""

import sys
from pathlib import Path

import numpy as np

VIEWS = (
    # centre x, centre y, pixels of the portrait per pixel of the view, roll, mirror, (H, W)
    (255.5, 255.5, 1.0, 0, False, (512, 512)),
    (224.0, 120.0, 1.0, 0, False, (224, 224)),
    (224.0, 120.0, 1.0, 0, True, (224, 224)),
    (224.0, 115.0, 1.5, 0, False, (100, 100)),
    (230.0, 125.0, 2.0, 0, False, (120, 150)),
    (210.0, 130.0, 0.5, 0, False, (480, 400)),
    (224.0, 120.0, 1.0, 15, False, (240, 240)),
    (224.0, 120.0, 1.0, -20, False, (240, 240)),
    (224.0, 120.0, 1.2, 30, True, (200, 220)),
    (224.0, 125.0, 0.8, -35, False, (300, 280)),
    (235.0, 140.0, 1.4, 8, True, (180, 300)),
    (200.0, 110.0, 0.7, -10, True, (400, 260)),
)


def view_matrix(x, y, step, roll, mirror, size):
    """Return (2, 3): pixels of a view -> pixels of the portrait, (x, y) at the view's centre."""
    turn = np.deg2rad(roll)
    linear = step * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    if mirror:
        linear[:, 0] *= -1
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.column_stack([linear, np.array([x, y]) - linear @ middle])


def render_view(image, matrix, size):
    """Sample (H, W, 3) u8 bilinearly; plain float64 arithmetic, so that every machine agrees."""
    height, width = size
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    x, y = np.einsum("ij,jhw->ihw", matrix, np.stack([columns, rows, np.ones_like(rows)]))
    x, y = np.clip(x, 0, image.shape[1] - 1), np.clip(y, 0, image.shape[0] - 1)
    left = np.minimum(x.astype(int), image.shape[1] - 2)
    top = np.minimum(y.astype(int), image.shape[0] - 2)
    across, down = (x - left)[..., None], (y - top)[..., None]
    upper = image[top, left] * (1 - across) + image[top, left + 1] * across
    lower = image[top + 1, left] * (1 - across) + image[top + 1, left + 1] * across
    return np.floor(upper * (1 - down) + lower * down + 0.5).astype(np.uint8)


def find_points(image):
    """Return mediapipe's (478, 2) points in pixels."""
    import mediapipe

    options = {"static_image_mode": True, "refine_landmarks": True}
    with mediapipe.solutions.face_mesh.FaceMesh(**options) as mesh:
        faces = mesh.process(image).multi_face_landmarks
    if not faces:
        return None
    found = np.array([(p.x, p.y) for p in faces[0].landmark])
    return (found * [image.shape[1], image.shape[0]]).astype(np.float32)


def record_photos(folder):
    """Write mesh_golden_photos.npz of the photos in a folder."""
    import cv2

    paths = sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png"))
    photos = {p.name: cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB) for p in paths}
    found = {name: find_points(photo) for name, photo in photos.items()}
    found = {name: points for name, points in found.items() if points is not None}
    path = Path(__file__).with_name("mesh_golden_photos.npz")
    np.savez_compressed(path, name=np.array(list(found)), points=np.stack(list(found.values())))


def main():
    from skimage import data

    portrait = data.astronaut()
    matrix = np.stack([view_matrix(*view) for view in VIEWS])
    size = np.array([view[-1] for view in VIEWS])
    images = [render_view(portrait, m, s) for m, s in zip(matrix, size, strict=True)]
    points = np.stack([find_points(image) for image in images])
    path = Path(__file__).with_name("mesh_golden.npz")
    np.savez_compressed(path, matrix=matrix, size=size, points=points)


if __name__ == "__main__":
    main()
    if len(sys.argv) > 1:
        record_photos(Path(sys.argv[1]))
