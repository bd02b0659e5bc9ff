from .codebook_atlas import plot_codebook as plot_codebook
from .face_panel import draw_panel as draw_panel
from .overlays import colorize as colorize
from .overlays import overlay as overlay

__all__ = ["colorize", "draw_panel", "overlay", "plot_codebook"]
