from .codebooks import Difference as Difference
from .codebooks import NotedCodebook as NotedCodebook
from .codebooks import describe_codebook as describe_codebook
from .codebooks import diff_codebooks as diff_codebooks
from .codebooks import list_codebooks as list_codebooks
from .codebooks import load_codebook as load_codebook
from .codebooks import validate_codebook as validate_codebook
from .records import Blob as Blob
from .records import Codebook as Codebook
from .records import Cue as Cue
from .records import Frame as Frame
from .records import Region as Region

__all__ = [
    "Blob",
    "Codebook",
    "Cue",
    "Difference",
    "Frame",
    "NotedCodebook",
    "Region",
    "describe_codebook",
    "diff_codebooks",
    "list_codebooks",
    "load_codebook",
    "validate_codebook",
]
