"""AU heatmaps: a max of anisotropic Gaussians placed in the face's own frame.

Plan once (which Gaussians an expression has), apply to many faces. `render_heatmaps` is the
definition, on NumPy arrays and on torch tensors of any device; `render_bytes` gives the same
numbers, rounded to 1/255, as fast as a CPU can.

Conventions: pixel (u, v) of a (h, w) map lies at image x = (u + 0.5) * W / w - 0.5, and
likewise y, so that a map of any size covers the whole image of size (H, W).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
